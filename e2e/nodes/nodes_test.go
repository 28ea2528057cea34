package nodes_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestSameEventAtOnce: a sender's retries may come to every node at the same
// time, and the app has the event once.
func TestSameEventAtOnce(t *testing.T) {
	c := newCluster(t)
	const events = 30
	release := make(chan struct{})
	c.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.N == 1 {
			<-release // the others wait for the outcome of a slow one
		}
	})
	webhooks := make([]webhook, events)
	for i := range webhooks {
		webhooks[i] = newWebhook()
	}
	go func() {
		c.app.Wait(events)
		close(release)
	}()
	all(events*len(c.nodes), func(i int) {
		if a := c.post(i%len(c.nodes), webhooks[i/len(c.nodes)]); a.status != http.StatusOK {
			t.Errorf("posting to node %d: %v", i%len(c.nodes), a)
		}
	})
	for _, w := range webhooks {
		if n := c.seen()[w.id]; n != 1 {
			t.Errorf("the app was given %s %d times", w.id, n)
		}
	}
	if n := c.app.Count(); n != events {
		t.Errorf("the app had %d requests, want %d", n, events)
	}
}

// TestNodeKilled: what a node had in hand when it was killed is finished by the
// others within 30 s.
func TestNodeKilled(t *testing.T) {
	c := newCluster(t)
	var mu sync.Mutex
	hang := false
	c.receiver.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		mu.Lock()
		hanging := hang
		mu.Unlock()
		if hanging {
			<-r.Context().Done() // until the node that sent it is dead
		}
	})
	// An endpoint that has answered is trusted with several attempts at once.
	first, a := c.create(0)
	if a.status != http.StatusCreated {
		t.Fatal(a)
	}
	c.until("a first delivery", func() bool { return c.received()[first+" completed"] == 1 })
	before := c.receiver.Count()
	mu.Lock()
	hang = true
	mu.Unlock()
	const creates = 5
	ids := make([]string, creates)
	all(creates, func(i int) {
		var a answer
		if ids[i], a = c.create(0); a.status != http.StatusCreated {
			t.Errorf("creating: %v", a)
		}
	})
	c.receiver.Wait(before + creates) // the started events are in hand
	// And a webhook to the edge, which the app has not answered.
	block := make(chan struct{})
	c.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.N == 1 {
			<-block
		}
	})
	w := newWebhook()
	lost := make(chan answer, 1)
	go func() { lost <- c.post(0, w) }()
	c.app.Wait(1)
	mu.Lock()
	hang = false
	mu.Unlock()
	killed := time.Now()
	c.nodes[0].Kill()
	close(block)
	if a := <-lost; a.err == nil {
		t.Errorf("the dead node answered %v", a)
	}
	c.until("the others to finish", func() bool {
		received := c.received()
		for _, id := range ids {
			if received[id+" completed"] == 0 {
				return false
			}
		}
		return true
	})
	took := time.Since(killed)
	t.Logf("the dead node's deliveries were finished after %v", took)
	if took > 30*time.Second {
		t.Errorf("the dead node's deliveries took %v", took)
	}
	received := c.received()
	for _, id := range ids {
		// The one in hand, whose answer nobody heard, and the one of another
		// node; the terminal event once.
		if received[id+" started"] != 2 || received[id+" completed"] != 1 {
			t.Errorf("%s was received %d and %d times", id, received[id+" started"], received[id+" completed"])
		}
	}
	// The sender tries again, elsewhere: the claim died with its node.
	c.until("the event to be accepted", func() bool { return c.post(1, w).status == http.StatusOK })
	if n := c.seen()[w.id]; n != 2 {
		t.Errorf("the app was given the event %d times, want the lost one and one more", n)
	}
}

// TestRollingRestart: nodes are restarted one after the other under light load,
// and nothing is lost or doubled.
func TestRollingRestart(t *testing.T) {
	c := newCluster(t)
	stop := make(chan struct{})
	var mu sync.Mutex
	var webhooks []webhook
	var ids []string
	var load sync.WaitGroup
	for worker := range 4 {
		load.Go(func() {
			for n := worker; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond): // light load
				}
				if worker%2 == 0 {
					w := newWebhook()
					// As a load balancer does, the next node is tried when one
					// can't be reached.
					c.until("an event to be accepted", func() bool { n++; return c.post(n%len(c.nodes), w).status == http.StatusOK })
					mu.Lock()
					webhooks = append(webhooks, w)
					mu.Unlock()
					continue
				}
				c.until("a prediction to be created", func() bool {
					n++
					id, a := c.create(n % len(c.nodes))
					if a.status != http.StatusCreated {
						return false
					}
					mu.Lock()
					defer mu.Unlock()
					ids = append(ids, id)
					return true
				})
			}
		})
	}
	for _, n := range c.nodes {
		before := c.app.Count()
		c.until("some load", func() bool { return c.app.Count() > before+5 })
		n.Stop()
		n.Start("PORT1")
	}
	close(stop)
	load.Wait()
	c.until("every webhook to be delivered", func() bool {
		received := c.received()
		for _, id := range ids {
			if received[id+" completed"] == 0 {
				return false
			}
		}
		return true
	})
	seen, received := c.seen(), c.received()
	for _, w := range webhooks {
		if seen[w.id] != 1 {
			t.Errorf("the app was given %s %d times", w.id, seen[w.id])
		}
	}
	for _, id := range ids {
		if received[id+" started"] != 1 || received[id+" completed"] != 1 {
			t.Errorf("%s was received %d and %d times", id, received[id+" started"], received[id+" completed"])
		}
	}
	t.Logf("%d events and %d predictions", len(webhooks), len(ids))
}

// TestDatabaseAway: while the database is away senders and clients are told to
// try again, nothing is lost, and soon after it is back all goes on.
func TestDatabaseAway(t *testing.T) {
	c := newCluster(t)
	before := newWebhook()
	if a := c.post(0, before); a.status != http.StatusOK {
		t.Fatal(a)
	}
	// One that the app is answering when the database goes.
	release := make(chan struct{})
	c.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.N == 2 {
			<-release
		}
	})
	open := newWebhook()
	opened := make(chan answer, 1)
	go func() { opened <- c.post(1, open) }()
	c.app.Wait(2)
	// And deliveries whose attempts are answered meanwhile.
	hang := make(chan struct{})
	c.receiver.Answer(func(w http.ResponseWriter, r *caddyrun.Request) { <-hang })
	var ids []string
	for range 5 {
		id, a := c.create(2)
		if a.status != http.StatusCreated {
			t.Fatal(a)
		}
		ids = append(ids, id)
	}
	c.receiver.Wait(1)

	c.database.Stop()
	gone := time.Now()
	close(release)
	close(hang)
	c.refused("the event under way", <-opened)
	late := newWebhook()
	for first := true; first || time.Since(gone) < *away; first = false {
		for n := range c.nodes {
			began := time.Now()
			c.refused("an event", c.post(n, late))
			_, a := c.create(n)
			c.refused("a create", a)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("node %d took %v to refuse", n, took)
			}
		}
		time.Sleep(50 * time.Millisecond) // not to wait for something: senders do not come all the time
	}
	creates := c.api.Creates.Load()
	if int(creates) != len(ids) {
		t.Errorf("%d creates reached the API, want %d: they could not have been kept", creates, len(ids))
	}

	c.database.Restart()
	back := time.Now()
	for n := range c.nodes {
		c.until("a node to accept", func() bool { return c.post(n, newWebhook()).status == http.StatusOK })
	}
	took := time.Since(back)
	t.Logf("all nodes accepted events %v after the database was back", took)
	if took > 5*time.Second {
		t.Errorf("the nodes took %v", took)
	}
	// The sender's retries may come to any node, and the app is not called
	// again.
	for n, w := range []webhook{before, open, late} {
		c.until("a retry to be accepted", func() bool { return c.post(n, w).status == http.StatusOK })
	}
	seen := c.seen()
	for _, w := range []webhook{before, open, late} {
		if seen[w.id] != 1 {
			t.Errorf("the app was given %s %d times", w.id, seen[w.id])
		}
	}
	c.until("every webhook to be delivered", func() bool {
		received := c.received()
		for _, id := range ids {
			if received[id+" completed"] == 0 {
				return false
			}
		}
		return true
	})
	received := c.received()
	for _, id := range ids {
		if received[id+" started"] != 1 || received[id+" completed"] != 1 {
			t.Errorf("%s was received %d and %d times", id, received[id+" started"], received[id+" completed"])
		}
	}
}

// refused asserts an answer that says when to try again.
func (c *cluster) refused(what string, a answer) {
	c.t.Helper()
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		c.t.Errorf("%s got %v with Retry-After %q, want 503", what, a, a.header.Get("Retry-After"))
	}
}
