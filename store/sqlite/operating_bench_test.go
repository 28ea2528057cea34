package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// operatingRows is how many deliveries the benchmark stores; OPERATING_ROWS
// says otherwise. One in a thousand failed, at one in ten of those the webhook
// is disabled, and a few hundred are pending.
func operatingRows(b *testing.B) int64 {
	n, err := strconv.ParseInt(os.Getenv("OPERATING_ROWS"), 10, 64)
	if err != nil {
		return 20_000
	}
	return n
}

// fillOperating writes the rows as they are after weeks of use.
func fillOperating(b *testing.B, path string, n int64) {
	s, err := Open(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	const batch = 5000
	for from := int64(0); from < n; from += batch {
		err := s.writer.do(context.Background(), &op{write: func(g *group) error {
			for i := from; i < min(from+batch, n); i++ {
				// Payloads are half as large as usual, to fit on small disks.
				p, events := benchPrediction(i, fmt.Sprintf("https://r%d.example.com/hook/%d", i%500, i))
				events[1].Payload = events[1].Payload[:300]
				if i%100 == 0 {
					events[1].Kind = event.Failed
				}
				e, err := g.track(p, events[1:])
				if err != nil {
					return err
				}
				state, webhook := store.DeliveryDelivered, store.WebhookDelivered
				switch {
				case i%1000 == 7:
					state, webhook = store.DeliveryFailed, store.WebhookFailed
				case i > n-300:
					continue
				}
				d := e.Deliveries[0]
				if err := errors.Join(
					g.insertAttempt(e.Ref, d.N, d.Event, &store.Attempt{URL: p.URL, Status: 200, Number: 1, At: time.Now(), Took: time.Millisecond, Response: "ok"}),
					g.exec("UPDATE deliveries SET state = ?, attempts = 1 WHERE n = ?", state, d.N),
					g.exec("UPDATE predictions SET webhook = ? WHERE ref = ?", webhook, e.Ref),
				); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOperating measures what operators ask for, of a store with many
// rows: the counts of a scrape, and every page of a walk through each list. It
// reports the longest page.
//
//	OPERATING_ROWS=1000000 go test ./store/sqlite -run '^$' -bench Operating -benchtime 1x
func BenchmarkOperating(b *testing.B) {
	n := operatingRows(b)
	path := filepath.Join(b.TempDir(), "webhook.db")
	fillOperating(b, path, n)
	start := time.Now()
	s := benchStore(b, path)
	defer s.Close()
	b.Logf("%d deliveries, opened in %s", n, time.Since(start))
	state := func(st store.DeliveryState) *store.DeliveryState { return &st }
	status := func(st store.WebhookStatus) *store.WebhookStatus { return &st }
	deliveries := func(f store.DeliveryFilter) func(int64) (int, int64, error) {
		return func(before int64) (int, int64, error) {
			f.Before, f.Limit = before, 50
			rows, next, err := s.ListDeliveries(context.Background(), f)
			return len(rows), next, err
		}
	}
	predictions := func(f store.PredictionFilter) func(int64) (int, int64, error) {
		return func(before int64) (int, int64, error) {
			f.Before, f.Limit = before, 50
			rows, next, err := s.ListPredictions(context.Background(), f)
			return len(rows), next, err
		}
	}
	find := func(text string) func(int64) (int, int64, error) {
		return func(int64) (int, int64, error) {
			found, err := s.Find(context.Background(), text, 50)
			return len(found.Predictions) + len(found.Deliveries), 0, err
		}
	}
	for _, c := range []struct {
		name string
		page func(before int64) (int, int64, error)
	}{
		{"find id", find("p7")},
		{"find delivery", find("dlv_1")},
		{"find endpoint", find("r7.example.com")},
		{"find client", find("alice")},
		{"find part", find("/hook/7")},
		{"find nothing", find("nothing at all")},
		{"counts", func(int64) (int, int64, error) { _, err := s.Counts(context.Background()); return 0, 0, err }},
		{"deliveries", deliveries(store.DeliveryFilter{})},
		{"pending", deliveries(store.DeliveryFilter{State: state(store.DeliveryPending)})},
		{"delivered", deliveries(store.DeliveryFilter{State: state(store.DeliveryDelivered)})},
		{"failed", deliveries(store.DeliveryFilter{State: state(store.DeliveryFailed)})},
		{"canceled (none)", deliveries(store.DeliveryFilter{State: state(store.DeliveryCanceled)})},
		{"event", deliveries(store.DeliveryFilter{Event: event.Failed})},
		{"event (none)", deliveries(store.DeliveryFilter{Event: event.Started})},
		{"endpoint", deliveries(store.DeliveryFilter{Endpoint: "https://r7.example.com:443"})},
		{"endpoint (none)", deliveries(store.DeliveryFilter{Endpoint: "https://elsewhere.example.com:443"})},
		{"failed of an endpoint", deliveries(store.DeliveryFilter{State: state(store.DeliveryFailed), Endpoint: "https://r7.example.com:443"})},
		{"prediction", deliveries(store.DeliveryFilter{Prediction: "p7"})},
		{"predictions", predictions(store.PredictionFilter{})},
		{"predictions pending", predictions(store.PredictionFilter{Webhook: status(store.WebhookPending)})},
		{"predictions failed", predictions(store.PredictionFilter{Webhook: status(store.WebhookFailed)})},
		{"predictions disabled (none)", predictions(store.PredictionFilter{Webhook: status(store.WebhookDisabled)})},
		{"prediction by id", predictions(store.PredictionFilter{ID: "p7"})},
	} {
		b.Run(c.name, func(b *testing.B) {
			var times []time.Duration
			found := 0
			for b.Loop() {
				// The whole list for short ones, the beginning of long ones.
				for before, pages := int64(0), 0; pages < 300; pages++ {
					began := time.Now()
					rows, next, err := c.page(before)
					if err != nil {
						b.Fatal(err)
					}
					times = append(times, time.Since(began))
					found += rows
					if before = next; next == 0 {
						break
					}
				}
			}
			slices.Sort(times)
			ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(times[len(times)-1]), "max-ms/page")
			b.ReportMetric(ms(times[len(times)*99/100]), "p99-ms/page")
			b.ReportMetric(ms(times[len(times)/2]), "median-ms/page")
			b.ReportMetric(float64(len(times))/float64(b.N), "pages")
			b.ReportMetric(float64(found)/float64(b.N), "rows")
		})
	}
}
