package replicatewebhook_test

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	replicatewebhook "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

func init() { caddy.RegisterModule(clockedEdge{}) }

// clockedEdge is the edge with a test's clock, by the path of the clock's store.
type clockedEdge struct {
	Clock string `json:"clock"`
	replicatewebhook.Edge
}

var edgeClocks sync.Map

func (clockedEdge) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.clocked_edge", New: func() caddy.Module { return new(clockedEdge) }}
}

func (c *clockedEdge) Provision(ctx caddy.Context) error {
	clk, _ := edgeClocks.Load(c.Clock)
	c.SetClock(clk.(*caddyrun.Clock).Now)
	return c.Edge.Provision(ctx)
}

// newSteppingEdge starts an edge of which both the handler's and the store's
// clock can be moved.
func newSteppingEdge(t *testing.T, options string) (*edge, *caddyrun.Clock) {
	t.Helper()
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	e := &edge{Server: caddyrun.New(t), t: t, app: app}
	path := e.Path("clocked", "webhook.db")
	clk := caddyrun.NewClock(t, path)
	edgeClocks.Store(path, clk)
	t.Cleanup(func() { edgeClocks.Delete(path) })
	config, _, err := e.Adapt(withStore(site(withSecret(options), app.Addr()), "clocked "+path))
	if err != nil {
		t.Fatal(err)
	}
	const handler = `"handler":"replicate_webhook"`
	if n := bytes.Count(config, []byte(handler)); n != 1 {
		t.Fatalf("the configuration has %d edge handlers: %s", n, config)
	}
	config = bytes.Replace(config, []byte(handler), fmt.Appendf(nil, `"handler":"clocked_edge","clock":%q`, path), 1)
	if err := e.LoadJSON(config); err != nil {
		t.Fatal(err)
	}
	return e, clk
}

// TestClockStepsOpenNoReplayWindow: however the clock steps, back and forth by
// ten minutes, what was accepted once is not accepted again. dedup is as short
// as it may be.
func TestClockStepsOpenNoReplayWindow(t *testing.T) {
	e, clk := newSteppingEdge(t, "tolerance 5m\ndedup 10m")
	var sent []webhook
	for i, minutes := range []int{0, -10, 0, 10, 0, -10, -20, -10, 10, 20, 10, 0, 5, -5, 15, -15, 0, 10, 20, 30, 20, 0} {
		clk.Ahead(time.Duration(minutes) * time.Minute)
		clk.Purge(t)
		// Everything that was ever sent, at once, and not one gets through.
		var wg sync.WaitGroup
		before := e.app.Count()
		for j, w := range sent {
			wg.Go(func() {
				a, err := post(e.Client, e.URL("PORT1", route), w)
				if err != nil || !a.duplicate() && a.status != http.StatusUnauthorized {
					t.Errorf("step %d, to %d minutes: webhook %d got %v, %v", i, minutes, j, a, err)
				}
			})
		}
		wg.Wait()
		if n := e.app.Count() - before; n > 0 {
			t.Fatalf("step %d, to %d minutes: the app got %d webhooks again", i, minutes, n)
		}
		// New ones, signed in time, late and early by this clock. Which of
		// them are accepted is another question.
		for _, off := range []time.Duration{0, -4 * time.Minute, 4 * time.Minute} {
			at := time.Now().Add(time.Duration(minutes)*time.Minute + off)
			w := replicate(whsec, guideBodyAt(fmt.Sprintf("p%d_%v", i, off), "prediction.completed", at))
			if a := e.send(w); a.status == http.StatusOK {
				sent = append(sent, w)
			} else if a.status != http.StatusUnauthorized {
				t.Fatalf("step %d, to %d minutes: a new webhook got %v", i, minutes, a)
			}
		}
	}
	if n := e.app.Count(); n != len(sent) || n < 10 {
		t.Fatalf("the app got %d requests for %d webhooks accepted", n, len(sent))
	}
}
