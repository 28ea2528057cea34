package dashboard_test

import (
	"database/sql"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// multiply makes a million deliveries of the one seeded prediction's two.
const multiply = `
CREATE TEMP TABLE more AS WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 500000) SELECT i FROM i;
INSERT INTO predictions SELECT 1000 + i, randomblob(32), api, 'pred_' || i, client, 'https://hooks' || (i % 100) || '.example.com/in', events, poll_path,
	NULL, NULL, '', 0, NULL, created + i, happened, CASE WHEN i % 50 = 0 THEN 2 ELSE webhook END FROM predictions, more WHERE ref = 1;
INSERT INTO deliveries SELECT 1000 + 2 * i + n, abs(random()), 1000 + i, event, 0, CASE WHEN i % 50 = 0 AND event > 1 THEN 2 ELSE 1 END, 1, due + i, created + i
	FROM deliveries, more WHERE n <= 2;
INSERT INTO payloads SELECT 1000 + 2 * i + n, body FROM payloads, more WHERE n <= 2;
INSERT INTO attempts SELECT 1000 + 2 * i + id, 1000 + 2 * i + delivery, 1000 + i, event, url, status, number, at + i, took, response, error, 0
	FROM attempts, more WHERE id <= 2;
`

// BenchmarkMillion measures the pages over loopback, the login included, with a
// million deliveries in the store.
func BenchmarkMillion(b *testing.B) {
	s := dashrun.Start(b, func(path string) {
		dashrun.Seed(b, path, []dashrun.Row{{ID: "pred_first", URL: "https://hooks.example.com/in", Event: event.Completed, Age: 2 * time.Hour, Statuses: []int{200}}})
		db, err := sql.Open("sqlite", path)
		if err != nil {
			b.Fatal(err)
		}
		db.SetMaxOpenConns(1) // the temporary table is a connection's own
		defer db.Close()
		if _, err := db.Exec("PRAGMA synchronous=OFF"); err != nil {
			b.Fatal(err)
		}
		if _, err := db.Exec(multiply); err != nil {
			b.Fatal(err)
		}
		var n int
		if err := db.QueryRow("SELECT count(*) FROM deliveries").Scan(&n); err != nil || n < 1_000_000 {
			b.Fatal(n, err)
		}
	})
	v := s.Visitor()
	for name, path := range map[string]string{
		"overview": "", "deliveries": "deliveries", "failed": "deliveries?state=failed", "prediction": "deliveries?prediction=pred_250000",
		"predictions": "predictions", "pending": "deliveries?state=pending", "old": "deliveries?cursor=a",
	} {
		b.Run(name, func(b *testing.B) {
			var slowest time.Duration
			for b.Loop() {
				begin := time.Now()
				if resp, body := v.Do(http.MethodGet, "/_webhooks/"+path, nil); resp.StatusCode != http.StatusOK {
					b.Fatalf("%d %s", resp.StatusCode, body)
				}
				slowest = max(slowest, time.Since(begin))
			}
			b.ReportMetric(float64(slowest.Microseconds())/1000, "ms-slowest")
		})
	}
}
