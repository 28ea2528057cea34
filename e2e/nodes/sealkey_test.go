package nodes_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestSealingKeyIsRotatedUnderLoad: the sealing key of two nodes is rotated step
// by step, one node after the other, as docs/operations.md says, while predictions
// are created and delivered at both. Nothing that was sealed fails to be read, and
// status says when the old key can go.
func TestSealingKeyIsRotatedUnderLoad(t *testing.T) {
	const token = "r8_the_token_of_a_client"
	database := pgtest.Start(t)
	dsn := database.Fresh(t)
	c := &cluster{
		t: t, database: database, app: caddyrun.NewApp(t), receiver: caddyrun.NewApp(t),
		// Who polls without the credential is refused.
		api: fakeapi.New(fakeapi.Options{Run: 300 * time.Millisecond, Accounts: map[string]string{token: "ada"}}),
	}
	c.hook = c.receiver.URL + "/hook"
	api := httptest.NewServer(c.api)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	_, port, _ := strings.Cut(c.receiver.Addr(), ":")
	config := func(keys string) string {
		return strings.NewReplacer(
			"signing shared\n\t\tsigning_secret {env.SECRET}", "signing per_client",
			"replicate_predictions {", "replicate_predictions {\n\t\t\tserve_signing_secret",
			"seal_key {env.SECRET}", "seal_key "+keys+"\n\t\tretry {\n\t\t\tinitial_delay 500ms\n\t\t}",
		).Replace(fmt.Sprintf(clusterCaddyfile, port, c.app.Addr(), api.URL))
	}
	const keyOld, keyNew = "{env.SEAL_OLD}", "{env.SEAL_NEW}"
	for range 2 {
		n := caddyrun.NewChild(t, config(keyOld), "admin {$ADMIN}")
		n.Environ = append(n.Environ, "DATABASE_URL="+dsn, "LISTEN_URL="+dsn, "MAX_CONNS=6", "SECRET="+secret, "ADMIN="+n.Addr("PORT_ADMIN"),
			"SEAL_OLD=the sealing key of last year", "SEAL_NEW=the sealing key of this year")
		n.Client = caddyrun.ThroughReloads(n.Client)
		n.Start("PORT1")
		n.Logs.Wait(t, "serving initial configuration")
		c.nodes = append(c.nodes, n)
	}

	// A receiver that refuses every third delivery once.
	var mu sync.Mutex
	accepted, refused := make(map[string]int), make(map[string]bool)
	c.receiver.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		var p struct {
			Event      string
			Prediction struct{ ID string }
		}
		if err := json.Unmarshal(r.Got, &p); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if id := r.Header.Get("X-Replicate-Delivery"); r.N%3 == 0 && !refused[id] {
			refused[id] = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		accepted[p.Prediction.ID+" "+p.Event]++
	})
	before := c.secret(0, token)
	var ids []string
	stop := make(chan struct{})
	var load sync.WaitGroup
	for worker := range 2 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond): // a light load
				}
				id, a := c.create(worker)
				if a.status != http.StatusCreated {
					t.Errorf("a create got %v", a)
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	arrive := func() {
		t.Helper()
		mu.Lock()
		created := len(ids)
		mu.Unlock()
		c.until("predictions to be delivered after a reload", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids[min(created, len(ids)):] {
				if accepted[id+" prediction.completed"] > 0 {
					return true
				}
			}
			return false
		})
	}
	reload := func(node int, keys string) (string, error) {
		n := c.nodes[node]
		n.Configure(config(keys))
		return n.Run("reload", "--address", n.Addr("PORT_ADMIN"))
	}
	status := func(node int) string {
		n := c.nodes[node]
		out, err := n.Command("replicate-webhook", "status", "--address", n.Addr("PORT_ADMIN")).CombinedOutput()
		if err != nil {
			t.Fatalf("status of node %d: %v %s", node, err, out)
		}
		return string(out)
	}
	arrive()
	if out, err := reload(0, keyNew); err == nil || !strings.Contains(out, "seal_key lacks the key") {
		t.Errorf("without the key that is needed: %v %s", err, out)
	}
	for _, keys := range []string{keyOld + " " + keyNew, keyNew + " " + keyOld, keyNew} {
		if keys == keyNew {
			for i := range c.nodes {
				c.until("the old key to be needed no longer", func() bool {
					return strings.Contains(status(i), "no longer needed by this node")
				})
			}
		}
		for i := range c.nodes {
			if out, err := reload(i, keys); err != nil {
				t.Fatalf("node %d, seal_key %s: %v %s", i, keys, err, out)
			}
			arrive()
		}
		if keys == keyOld+" "+keyNew {
			for i := range c.nodes {
				if got := status(i); !strings.Contains(got, "not in use yet") || strings.Contains(got, "no longer needed") {
					t.Errorf("before node %d seals with the new key, its status is\n%s", i, got)
				}
			}
		}
	}
	end()
	c.until("every webhook to be delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if accepted[id+" prediction.completed"] == 0 {
				return false
			}
		}
		return true
	})
	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		// A started event that was refused is given up once the terminal one is
		// there.
		if accepted[id+" prediction.started"] > 1 || accepted[id+" prediction.completed"] != 1 {
			t.Errorf("%s was accepted %d and %d times", id, accepted[id+" prediction.started"], accepted[id+" prediction.completed"])
		}
	}
	for i, n := range c.nodes {
		if after := c.secret(i, token); after != before {
			t.Errorf("node %d signs with another secret now", i)
		}
		for _, text := range []string{"can't be read", "can't be relied on", "delivery waits"} {
			if lines := n.Logs.Lines(text); len(lines) > 0 {
				t.Errorf("node %d: %s", i, lines)
			}
		}
	}
	t.Logf("%d predictions", len(ids))
}

// secret returns the client's signing secret, as a node tells it.
func (c *cluster) secret(node int, token string) string {
	c.t.Helper()
	n := c.nodes[node]
	r, err := http.NewRequest(http.MethodGet, n.URL("PORT1", "/v1/webhooks/default/secret"), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := n.Client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("asking for the secret: %d %s %v", resp.StatusCode, body, err)
	}
	return string(body)
}
