// Package nodes_test runs several Caddy processes on one PostgreSQL.
//
// TestDatabaseAway takes a few seconds; as long an outage as one likes is had by
//
//	go test ./e2e/nodes -run TestDatabaseAway -away 60s -v
package nodes_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook" // so that a change of it runs these tests again
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

var away = flag.Duration("away", 3*time.Second, "how long TestDatabaseAway keeps the database away")

// secret signs webhooks, and seals.
const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// cluster is three Caddy processes on one database, with an app behind their
// edges, a prediction API, and a receiver of deliveries.
type cluster struct {
	t        *testing.T
	database *pgtest.Server
	nodes    []*caddyrun.Child
	app      *caddyrun.App
	receiver *caddyrun.App
	// hook is where webhooks go.
	hook string
	api  *fakeapi.API
}

const postgresStore = `store postgres {env.DATABASE_URL} {
			listen_dsn {env.LISTEN_URL}
			max_conns {$MAX_CONNS}
		}`

const clusterCaddyfile = `{
	{$GLOBALS}
	replicate_webhook {
		` + postgresStore + `
		signing shared
		signing_secret {env.SECRET}
		seal_key {env.SECRET}
		poll 100ms 500ms
		timeout 10s
		egress {
			allow_http
			ports %[1]s
			allow 127.0.0.0/8
		}
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.SECRET}
		}
		reverse_proxy %[2]s
	}
	handle /webhooks/inbox {
		replicate_webhook {
			secret {env.SECRET}
			scope queue
			inbox {
				max_delay 100ms
				handle {
					reverse_proxy %[2]s
				}
			}
		}
	}
	handle /v1/* {
		replicate_predictions {
			api %[3]s/v1
		}
		reverse_proxy %[3]s
	}
}
`

// newCluster starts it all.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	database := pgtest.Start(t)
	dsn := database.Fresh(t)
	return newClusterOn(t, database, 3, dsn, dsn)
}

// newClusterOn starts so many nodes on a database that exists, which they may
// reach by way of a pooler and listen to past it.
func newClusterOn(t *testing.T, database *pgtest.Server, nodes int, dsn, listen string) *cluster {
	t.Helper()
	c := &cluster{
		t: t, database: database, app: caddyrun.NewApp(t), receiver: caddyrun.NewApp(t),
		api: fakeapi.New(fakeapi.Options{Run: 200 * time.Millisecond}),
	}
	c.hook = c.receiver.URL + "/hook"
	api := httptest.NewServer(c.api)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	_, port, _ := strings.Cut(c.receiver.Addr(), ":")
	for range nodes {
		n := caddyrun.NewChild(t, fmt.Sprintf(clusterCaddyfile, port, c.app.Addr(), api.URL), "admin {$ADMIN}")
		n.Environ = append(n.Environ, "DATABASE_URL="+dsn, "LISTEN_URL="+listen, "MAX_CONNS=6", "SECRET="+secret, "ADMIN="+n.Addr("PORT_ADMIN"))
		n.Start("PORT1")
		// The port answers before the store of the node is open.
		n.Logs.Wait(t, "serving initial configuration")
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(func() {
		for i, n := range c.nodes {
			if strings.Contains(n.Logs.String(), pgtest.Password) {
				t.Errorf("node %d logged the database's password", i)
			}
		}
	})
	return c
}

// webhook is a signed webhook to the edge.
type webhook struct{ id, body, signature string }

func newWebhook() webhook {
	return newWebhookOf(strings.ToLower(rand.Text()), "completed", "succeeded")
}

// newWebhookOf returns a webhook of a prediction.
func newWebhookOf(id, event, status string) webhook {
	w := webhook{id: id}
	w.body = fmt.Sprintf(`{"event":"prediction.%s","prediction":{"id":%q,"version":"v1","input":{},"status":%q,"created_at":"2026-01-01T00:00:00.000Z"},"timestamp":%q}`,
		event, w.id, status, time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(w.body))
	w.signature = hex.EncodeToString(m.Sum(nil))
	return w
}

// answer is what a sender or a client gets; err where there was none.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (a answer) String() string { return fmt.Sprintf("%d %s %v", a.status, a.body, a.err) }

func (c *cluster) do(node int, path, body, header, value string) answer {
	n := c.nodes[node]
	r, err := http.NewRequest(http.MethodPost, n.URL("PORT1", path), strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(header, value)
	resp, err := n.Client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, text, err}
}

func (c *cluster) post(node int, w webhook) answer {
	return c.do(node, "/webhooks/replicate", w.body, "X-Replicate-Signature", w.signature)
}

// create creates a prediction whose webhooks go to the receiver.
func (c *cluster) create(node int) (id string, a answer) {
	body := fmt.Sprintf(`{"version":"v1","input":{"prompt":"a landscape"},"webhook_url":%q}`, c.hook)
	a = c.do(node, "/v1/predictions", body, "Authorization", "Bearer r8_the_token_of_a_client")
	var p struct {
		ID     string `json:"id"`
		Status string `json:"webhook_status"`
	}
	if a.status == http.StatusCreated && (json.Unmarshal(a.body, &p) != nil || p.Status != "pending") {
		c.t.Errorf("the answer to a create is %v", a)
	}
	return p.ID, a
}

// seen counts the webhooks that the app was given, by prediction.
func (c *cluster) seen() map[string]int {
	seen := make(map[string]int)
	for _, r := range c.app.Seen() {
		seen[r.Header.Get("X-Replicate-Prediction-Id")]++
	}
	return seen
}

// received counts the requests to the receiver that were answered, by prediction
// and event.
func (c *cluster) received() map[string]int {
	received := make(map[string]int)
	for _, r := range c.receiver.Seen() {
		var p struct {
			Event      string
			Prediction struct{ ID string }
		}
		if err := json.Unmarshal(r.Got, &p); err != nil {
			c.t.Fatalf("the receiver got %q", r.Got)
		}
		received[p.Prediction.ID+" "+strings.TrimPrefix(p.Event, "prediction.")]++
	}
	return received
}

// until waits, for as long as a dead node's work may take and a busy machine
// adds to that.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// all does f at the same time n times.
func all(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
