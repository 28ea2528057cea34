package replicatewebhook_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// newClockedEdge starts an edge whose store's clock can be moved.
func newClockedEdge(t *testing.T, options string) (*edge, *caddyrun.Clock) {
	t.Helper()
	e := newEdge(t, options)
	path := e.Path("clocked", "webhook.db")
	clock := caddyrun.NewClock(t, path)
	e.Reload(withStore(site(withSecret(options), e.app.Addr()), "clocked "+path))
	return e, clock
}

// TestReplayAfterPurgeIsRefused: an entry that is forgotten leaves the newest
// signed time behind. When the clock steps back into the window in which the
// webhook's time is good, it still is not accepted a second time.
func TestReplayAfterPurgeIsRefused(t *testing.T) {
	e, clk := newClockedEdge(t, "")
	w := completed("p1")
	e.accepted(w)
	clk.Ahead(25 * time.Hour)
	clk.Purge(t)
	clk.Ahead(0)
	forged := replicate(older, w.body)
	replayed, refused := e.refused(w, http.StatusUnauthorized), e.refused(forged, http.StatusUnauthorized)
	replayed.header.Del("Date")
	refused.header.Del("Date")
	if replayed.String() != refused.String() {
		t.Errorf("a replay gets %v, a forgery %v", replayed, refused)
	}
	// So is another event of that time or before: it can't be told apart from
	// one that was forgotten.
	earlier := guideBodyAt("p2", "prediction.completed", time.Now().Add(-time.Minute))
	e.refused(replicate(whsec, earlier), http.StatusUnauthorized)
	e.accepted(replicate(whsec, guideBodyAt("p3", "prediction.completed", time.Now().Add(time.Minute))))
}

// TestClockStepsBackOverLiveEntries: what has expired without being purged is
// remembered when the clock comes back.
func TestClockStepsBackOverLiveEntries(t *testing.T) {
	e, clk := newClockedEdge(t, "")
	w := completed("p1")
	e.accepted(w)
	clk.Ahead(25 * time.Hour)
	clk.Ahead(0)
	e.isDuplicate(w)
}

// TestReplayIsNeverAcceptedAcrossRestart, however the process ended.
func TestReplayIsNeverAcceptedAcrossRestart(t *testing.T) {
	app := caddyrun.NewApp(t)
	c := caddyrun.NewChild(t, site("secret "+whsec, app.Addr()))
	var sent []webhook
	for round := range 5 {
		c.Start("PORT1")
		for i, w := range sent {
			a, err := post(c.Client, c.URL("PORT1", route), w)
			if err != nil || !a.duplicate() {
				t.Fatalf("round %d: webhook %d got %v, %v; want a duplicate", round, i, a, err)
			}
		}
		// Several in flight at once, killed as soon as they are answered.
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				w := completed(string(rune('a'+round)) + string(rune('a'+i)))
				a, err := post(c.Client, c.URL("PORT1", route), w)
				if err != nil || a.status != http.StatusOK || a.duplicate() {
					t.Errorf("round %d: got %v, %v", round, a, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, w)
			})
		}
		wg.Wait()
		if round == 3 {
			c.Stop()
		} else {
			c.Kill()
		}
	}
	if n := app.Count(); n != len(sent) {
		t.Fatalf("the app got %d requests for %d events", n, len(sent))
	}
}

// TestCrashBeforeTheAnswerLeavesNoClaim: the sender's retry reaches the app.
func TestCrashBeforeTheAnswerLeavesNoClaim(t *testing.T) {
	app := caddyrun.NewApp(t)
	c := caddyrun.NewChild(t, site("secret "+whsec, app.Addr()))
	c.Start("PORT1")
	proceed := make(chan struct{})
	app.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-proceed })
	w := completed("p1")
	failed := make(chan error, 1)
	go func() {
		_, err := post(c.Client, c.URL("PORT1", route), w)
		failed <- err
	}()
	app.Wait(1)
	c.Kill()
	if err := <-failed; err == nil {
		t.Fatal("the sender got an answer from a process that was killed")
	}
	close(proceed)
	app.AnswerStatus(http.StatusOK)
	c.Start("PORT1")
	a, err := post(c.Client, c.URL("PORT1", route), w)
	if err != nil || a.status != http.StatusOK || a.duplicate() {
		t.Fatalf("the retry got %v, %v", a, err)
	}
}
