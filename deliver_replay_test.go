package replicatewebhook_test

import (
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-replicate/replicate-webhook/internal/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

func init() { caddy.RegisterModule(clocked{}) }

// clocked is the SQLite store with a clock that tests set.
type clocked struct {
	Path string `json:"path"`
}

// clock is how far a store's time is from now, by the store's path, and the
// store itself.
type clock struct {
	ahead atomic.Int64
	store *sqlite.Store
}

var clocks sync.Map

func (clocked) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "replicate_webhook.stores.clocked", New: func() caddy.Module { return new(clocked) }}
}

func (c *clocked) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&c.Path) {
		return d.ArgErr()
	}
	return nil
}

func (c *clocked) Resource() string    { return "clocked " + c.Path }
func (c *clocked) SealKeyFile() string { return filepath.Join(filepath.Dir(c.Path), "seal.key") }

func (c *clocked) Open() (store.Closer, error) {
	v, _ := clocks.LoadOrStore(c.Path, new(clock))
	clk := v.(*clock)
	s, err := sqlite.Open(sqlite.Options{Path: c.Path, PurgeEvery: time.Hour, Now: func() time.Time {
		return time.Now().Add(time.Duration(clk.ahead.Load()))
	}})
	clk.store = s
	return s, err
}

// newClockedEdge starts an edge whose store's clock can be moved.
func newClockedEdge(t *testing.T, options string) (*edge, *clock) {
	t.Helper()
	e := newEdge(t, options)
	path := e.Path("clocked", "webhook.db")
	e.Reload(withStore(site(withSecret(options), e.app.Addr()), "clocked "+path))
	v, _ := clocks.Load(path)
	t.Cleanup(func() { clocks.Delete(path) })
	return e, v.(*clock)
}

// TestReplayAfterPurgeIsRefused: an entry that is forgotten leaves the newest
// signed time behind. When the clock steps back into the window in which the
// webhook's time is good, it still is not accepted a second time.
func TestReplayAfterPurgeIsRefused(t *testing.T) {
	e, clk := newClockedEdge(t, "")
	w := completed("p1")
	e.accepted(w)
	clk.ahead.Store(int64(25 * time.Hour))
	if err := clk.store.Purge(); err != nil {
		t.Fatal(err)
	}
	clk.ahead.Store(0)
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
	clk.ahead.Store(int64(25 * time.Hour))
	clk.ahead.Store(0)
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
