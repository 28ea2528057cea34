package nodes_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestInboxOfNodes: what the inbox of a node had in hand when the node was killed
// reaches the app by the others within 30 s, a pause and a resume at one node count at
// all, and nodes that are restarted one after the other lose nothing. The events of a
// prediction keep their order.
func TestInboxOfNodes(t *testing.T) {
	const concurrency, predictions = 16, 60
	c := newCluster(t)
	var (
		mu      sync.Mutex
		hang    = true
		release = make(chan struct{})
		events  = make(map[string][]string) // that the app accepted, by prediction
	)
	c.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		mu.Lock()
		hanging := hang
		mu.Unlock()
		if hanging {
			select {
			case <-r.Context().Done(): // the node is dead
				return
			case <-release:
			}
		}
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Replicate-Prediction-Id")
		events[id] = append(events[id], strings.TrimPrefix(r.Header.Get("X-Replicate-Event"), "prediction."))
	})
	accept := func(node int, w webhook) {
		var a answer
		c.until("an event to be accepted", func() bool {
			a = c.do(node%len(c.nodes), "/webhooks/inbox", w.body, "X-Replicate-Signature", w.signature)
			node++ // as a load balancer does
			return a.status == http.StatusOK
		})
	}
	var sent []string
	send := func(name string, n int) []string {
		ids := make([]string, n)
		all(n, func(i int) {
			ids[i] = fmt.Sprint(name, i)
			accept(i, newWebhookOf(ids[i], "started", "processing"))
			accept(i+1, newWebhookOf(ids[i], "completed", "succeeded"))
		})
		sent = append(sent, ids...)
		return ids
	}
	arrived := func(ids []string) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if got := events[id]; len(got) == 0 || got[len(got)-1] != "completed" {
				return false
			}
		}
		return true
	}
	order := func(path string, node int) {
		t.Helper()
		resp, err := c.nodes[node].Client.Post(c.nodes[node].URL("PORT_ADMIN", "/replicate_webhook/inbox/"+path+"?scope=queue"), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", path, resp.StatusCode)
		}
	}

	first := send("killed", predictions)
	c.app.Wait(len(c.nodes) * concurrency) // every node has its share in hand
	mu.Lock()
	hang = false
	mu.Unlock()
	killed := time.Now()
	c.nodes[0].Kill()
	close(release)
	c.until("the others to pass on all events", func() bool { return arrived(first) })
	if took := time.Since(killed); took > 30*time.Second {
		t.Errorf("the dead node's events took %v", took)
	} else {
		t.Logf("the dead node's events reached the app after %v", took)
	}
	c.nodes[0].Start("PORT1")
	c.nodes[0].Logs.Wait(t, "serving initial configuration")

	order("pause", 1)
	paused := time.Now()
	c.until("the pause to count at all nodes", func() bool {
		ids := send(fmt.Sprint("paused", time.Since(paused).Nanoseconds(), "."), 6)
		time.Sleep(300 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if len(events[id]) > 0 {
				return false
			}
		}
		return true
	})
	t.Logf("the pause counted after at most %v", time.Since(paused))
	order("resume", 2)
	c.until("what waited to reach the app", func() bool { return arrived(sent) })

	for i, n := range c.nodes {
		var wg sync.WaitGroup
		wg.Go(func() { n.Stop() })
		send(fmt.Sprint("rolling", i, "."), 20)
		wg.Wait()
		n.Start("PORT1")
	}
	c.until("the last events to reach the app", func() bool { return arrived(sent) })
	mu.Lock()
	defer mu.Unlock()
	for _, id := range sent {
		if got := strings.Join(events[id], " "); got != "started completed" {
			t.Errorf("the app accepted %q of prediction %s", got, id)
		}
	}
}
