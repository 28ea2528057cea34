package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

func TestInboxConformance(t *testing.T) {
	t.Parallel()
	storetest.RunInbox(t, resources(t, plain))
}

func inboundEvent(name, prediction string) *store.Inbound {
	return &store.Inbound{Scope: "default", Name: name, PredictionID: prediction, Ordered: prediction != "", Head: []byte("head"), Body: []byte(name)}
}

func acceptEvent(s *Store, ev *store.Inbound) error {
	c, err := s.Claim(ctx, entryOf(ev.Name), 0)
	if err != nil {
		return err
	}
	return c.CommitEvent(ctx, ev)
}

func mustAccept(t *testing.T, s *Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := acceptEvent(s, inboundEvent(name, "p")); err != nil {
			t.Fatal(err)
		}
	}
}

func dueEvents(t *testing.T, s *Store) (names []string, claimed []store.Delivery) {
	t.Helper()
	claimed, _, err := s.ClaimDeliveries(ctx, 1000, plenty)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range claimed {
		names = append(names, d.Inbound.Name)
	}
	return names, claimed
}

func wantEvents(t *testing.T, s *Store, want ...string) []store.Delivery {
	t.Helper()
	names, claimed := dueEvents(t, s)
	if !slices.Equal(names, want) {
		t.Fatalf("due: %q, want %q", names, want)
	}
	return claimed
}

// TestInboxNodes is what several nodes owe each other's events.
func TestInboxNodes(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	for _, c := range []struct {
		name string
		test func(t *testing.T, dsn string)
	}{
		{"two nodes never hand out two events of one prediction at once", oneAtATimeAcrossNodes},
		{"a dead node's events resume", deadNodesEvents},
		{"a pause on one node stops the others", pauseAcrossNodes},
		{"a rotation on one node is followed by the others", rotationAcrossNodes},
		{"random work on several nodes keeps the order", orderAcrossNodes},
		{"an event whose commit may have been made is stored once", unknownCommitOnce},
		{"an event that another node accepted meanwhile is stored once", acceptedElsewhere},
		{"bounds are those of all nodes together", boundsAcrossNodes},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, server.Fresh(t)) })
	}
}

func oneAtATimeAcrossNodes(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	mustAccept(t, a, "1")
	mustAccept(t, b, "2")
	mustAccept(t, a, "3")
	b.queue.look(0)
	first := wantEvents(t, b, "1")[0]
	wantEvents(t, a)
	refuse := func(s *Store, d store.Delivery, later time.Duration) {
		t.Helper()
		o := outcome(d, store.Retry)
		o.Refused, o.Due = true, time.Now().Add(later)
		if err := s.Complete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	for range store.MaxRefusals - 1 {
		refuse(b, first, -time.Second)
		first = wantEvents(t, b, "1")[0]
	}
	// Refused so often, it lets the next one go: still one at a time.
	refuse(b, first, -time.Second)
	a.queue.look(0)
	b.queue.look(0)
	_, fromA := dueEvents(t, a)
	_, fromB := dueEvents(t, b)
	if len(fromA)+len(fromB) != 1 {
		t.Fatalf("%d and %d events of a prediction are handed out at once", len(fromA), len(fromB))
	}
}

func deadNodesEvents(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	mustAccept(t, a, "1", "2")
	wantEvents(t, a, "1")
	a.crash()
	b.queue.look(0)
	wantEvents(t, b)
	var claimed []store.Delivery
	eventually(t, "the dead node's event", func() bool {
		_, claimed = dueEvents(t, b)
		return len(claimed) > 0
	})
	if claimed[0].Inbound.Name != "1" || len(claimed) != 1 {
		t.Fatalf("claimed %+v", claimed)
	}
	complete(t, b, claimed[0], store.Delivered)
	wantEvents(t, b, "2")
}

func pauseAcrossNodes(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	changed, stop := b.Changed()
	defer stop()
	if err := a.SetPaused(ctx, "default", true); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the pause", func() bool { return b.Paused("default") })
	if took := time.Since(began); took > time.Second {
		t.Errorf("the other node followed after %v", took)
	}
	<-changed
	mustAccept(t, b, "1")
	wantEvents(t, b)
	if err := a.SetPaused(ctx, "default", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event", func() bool {
		_, claimed := dueEvents(t, b)
		return len(claimed) == 1
	})
	if spans := b.Pauses("default"); len(spans) != 1 || spans[0].Ended.IsZero() {
		t.Errorf("pauses are %v", spans)
	}
}

func rotationAcrossNodes(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	for _, client := range []string{"someone", store.EveryClient} {
		r, err := a.RotateKey(ctx, client, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the rotation", func() bool { return b.KeyGenerations("someone")[0] == r.Generation })
	}
	// Both rotate at the same time: neither is lost.
	var wg sync.WaitGroup
	for _, s := range []*Store{a, b} {
		wg.Go(func() {
			if _, err := s.RotateKey(ctx, "someone", time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range []*Store{a, b} {
		eventually(t, "both rotations", func() bool { return slices.Equal(s.KeyGenerations("someone"), []int64{4, 3, 2, 1, 0}) })
	}
}

func orderAcrossNodes(t *testing.T, dsn string) {
	nodes := []*Store{node(t, dsn), node(t, dsn), node(t, dsn)}
	const predictions, each = 12, 15
	var mu sync.Mutex
	attempts := make(map[string]bool)
	had := make(map[string][]string)
	total := 0
	var accepting, working sync.WaitGroup
	for p := range predictions {
		accepting.Go(func() {
			for i := range each {
				ev := inboundEvent(fmt.Sprintf("%d-%d", p, i), fmt.Sprint("p", p))
				if err := acceptEvent(nodes[rand.IntN(len(nodes))], ev); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	for _, s := range nodes {
		working.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s.queue.look(0)
				claimed, _, err := s.ClaimDeliveries(ctx, 1+rand.IntN(5), plenty)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, d := range claimed {
					if attempts[d.PredictionID] {
						t.Errorf("two events of %s at once", d.PredictionID)
					}
					attempts[d.PredictionID] = true
				}
				mu.Unlock()
				for _, d := range claimed {
					v := store.Disposition(rand.IntN(2)) // Retry or Delivered
					mu.Lock()
					delete(attempts, d.PredictionID)
					if v == store.Delivered {
						had[d.PredictionID] = append(had[d.PredictionID], d.Inbound.Name)
						total++
					}
					mu.Unlock()
					o := outcome(d, v)
					o.Attempt.Status, o.Due = 0, time.Now().Add(-time.Second)
					if err := s.Complete(ctx, o); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	accepting.Wait()
	eventually(t, "all events", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return total >= predictions*each
	})
	close(done)
	working.Wait()
	for p := range predictions {
		var want []string
		for i := range each {
			want = append(want, fmt.Sprintf("%d-%d", p, i))
		}
		if got := had[fmt.Sprint("p", p)]; !slices.Equal(got, want) {
			t.Errorf("the app had %q", got)
		}
	}
}

func events(t *testing.T, s *Store) int {
	t.Helper()
	rows, _, err := s.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}

// unknownCommitOnce commits an event as a connection would that breaks before the
// outcome is known.
func unknownCommitOnce(t *testing.T, dsn string) {
	s := node(t, dsn)
	for _, prediction := range []string{"p", ""} {
		before := events(t, s)
		ev := inboundEvent("event of "+prediction, prediction)
		c := mustClaim(t, s, entryOf(ev.Name)).(*claims.Claim)
		c.Events = []*store.Inbound{ev}
		x := settlement{claim: c, commit: true, accepted: accepting(c)}
		if err := s.use(func(ctx context.Context, conn *pgx.Conn) error { return s.settle(ctx, conn, []settlement{x}) }); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if n := events(t, s) - before; n != 1 || ev.ID == "" {
			t.Errorf("%d events are stored, ID %q", n, ev.ID)
		}
		if _, err := s.Claim(ctx, entryOf(ev.Name), 0); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("claiming it: %v", err)
		}
	}
	states, err := s.Inboxes(ctx)
	if err != nil || len(states) != 1 || states[0].Events[store.DeliveryPending] != 2 {
		t.Errorf("inboxes are %+v, %v", states, err)
	}
}

func acceptedElsewhere(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	c := mustClaim(t, a, entryOf("1"))
	// b takes a for gone, as after a pause of the process.
	if err := b.use(func(ctx context.Context, conn *pgx.Conn) error {
		return execute(ctx, conn, "DELETE FROM webhook_claims")
	}); err != nil {
		t.Fatal(err)
	}
	mustAccept(t, b, "1")
	if err := c.CommitEvent(ctx, inboundEvent("1", "p")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("committing it again: %v", err)
	}
	if n := events(t, a); n != 1 {
		t.Errorf("%d events are stored", n)
	}
	if _, err := a.Claim(ctx, entryOf("1"), 0); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("the sender's retry: %v", err)
	}
}

func boundsAcrossNodes(t *testing.T, dsn string) {
	a, b := node(t, dsn), node(t, dsn)
	bounded := func(name string) *store.Inbound {
		ev := inboundEvent(name, "")
		ev.MaxEvents = 3
		return ev
	}
	for i, s := range []*Store{a, b, a} {
		if err := acceptEvent(s, bounded(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	// b knows of the last one within the interval in which it reads what there is.
	n := 3
	eventually(t, "the inbox to be full", func() bool {
		n++
		return errors.Is(acceptEvent(b, bounded(fmt.Sprint(n))), store.ErrInboxFull)
	})
}
