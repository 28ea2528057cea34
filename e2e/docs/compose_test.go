package docs_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// TestComposeNodesShareOneMemory runs the compose file's four Caddyfiles as
// processes, with PostgreSQL: copies of a webhook that come to different nodes
// reach the app once, also when a node has died.
func TestComposeNodesShareOneMemory(t *testing.T) {
	const dir = "packaging/compose/"
	dsn := pgtest.Start(t).Fresh(t)
	app := caddyrun.NewApp(t)
	text := read(t, dir+"Caddyfile")
	text = strings.Replace(text, "{\n\treplicate_webhook {", "{\n\t{$GLOBALS}\n\treplicate_webhook {", 1)
	text = strings.Replace(text, "http:// {", "http://127.0.0.1:{$PORT1} {", 1)
	text = strings.Replace(text, ":2020 {", "http://127.0.0.1:{$PORT2} {", 1)
	text = strings.Replace(text, "app:3000", app.Addr(), 1)
	var (
		nodes []*caddyrun.Child
		addrs []string
	)
	for range 3 {
		node := caddyrun.NewChild(t, text)
		node.Environ = []string{"WEBHOOK_SECRET=" + secret, "SEAL_KEY=a key that all nodes have", "DATABASE_URL=" + dsn}
		node.Start("PORT1")
		nodes, addrs = append(nodes, node), append(addrs, node.Addr("PORT1"))
	}
	text = strings.NewReplacer(":8080", "http://127.0.0.1:{$PORT1}", "node1 node2 node3", strings.Join(addrs, " ")).Replace(read(t, dir+"Caddyfile.balancer"))
	balancer := caddyrun.NewChild(t, "{\n{$GLOBALS}\n}\n"+text)
	balancer.Start("PORT1")

	url := balancer.URL("PORT1", "/webhooks/replicate")
	copies := func(id string) {
		t.Helper()
		body := payload(id, 10)
		signed := http.Header{"X-Replicate-Signature": {hexSignature(body)}}
		duplicates := 0
		const n = 9
		for range n {
			resp := post(t, balancer.Client, url, signed, body)
			for try := 0; resp.StatusCode == 502 && try < 10; try++ {
				// A connection that the balancer kept to a node which has
				// died meanwhile: senders repeat it.
				resp = post(t, balancer.Client, url, signed, body)
			}
			if resp.StatusCode != 200 {
				t.Fatalf("%s: got %s", id, resp.Status)
			}
			if resp.Header.Get("X-Replicate-Duplicate") == "true" {
				duplicates++
			}
		}
		if duplicates != n-1 {
			t.Errorf("%s: %d of %d copies are duplicates", id, duplicates, n)
		}
	}
	copies("pred_1")
	// Each node by itself knows of it, too.
	body := payload("pred_2", 10)
	for i, node := range nodes {
		resp := post(t, node.Client, node.URL("PORT1", "/webhooks/replicate"), http.Header{"X-Replicate-Signature": {hexSignature(body)}}, body)
		if want := fmt.Sprint(i > 0); resp.StatusCode != 200 || fmt.Sprint(resp.Header.Get("X-Replicate-Duplicate") == "true") != want {
			t.Errorf("node %d: got %s, a duplicate: %s", i, resp.Status, resp.Header.Get("X-Replicate-Duplicate"))
		}
	}
	resp, err := nodes[0].Client.Get(nodes[0].URL("PORT2", "/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !strings.Contains(string(metrics), "\ncaddy_replicate_webhook_requests_total{") {
		t.Errorf("node 0 shows Prometheus no metric of the plugin: %s, %v", resp.Status, err)
	}
	nodes[0].Kill()
	copies("pred_3")
	if seen := len(app.Seen()); seen != 3 {
		t.Errorf("the app got %d webhooks, want 3", seen)
	}
}
