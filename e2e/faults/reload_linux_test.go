package faults_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// The load of TestReload, per second.
const (
	edgeRate   = 200
	createRate = 50
	// atOnce bounds the requests under way, so that a busy machine makes fewer in
	// the same time and not more than it can respond to.
	atOnce = 64
)

// TestReload reloads under load: what reaches a handler is answered, nothing is
// passed on or delivered twice, and no goroutine or descriptor stays behind.
func TestReload(t *testing.T) {
	reloads := count(reloads, 10)
	w := newWorld(t, "sqlite {$DIR}/store/webhook.db")
	w.Start("PORT1")
	w.warmUp()
	// The base is what the same load leaves without reloads.
	rest := w.steadyLoad()
	time.Sleep(time.Second)
	rest()
	w.drain()
	goroutines, files := w.resources(0, 0)

	rest = w.steadyLoad()
	pace := time.NewTicker(200 * time.Millisecond)
	defer pace.Stop()
	for range reloads {
		w.mustReload()
		<-pace.C
	}
	rest()
	w.drain()
	sum := w.ledger.audit(t)
	if sum.doubledEvents+sum.doubledDeliveries > 0 {
		t.Error("something was doubled")
	}
	if n := int(w.api.Creates.Load()); n != sum.creates {
		t.Errorf("the API created %d predictions for %d creates", n, sum.creates)
	}
	w.onlySlow()
	after, filesAfter := w.resources(goroutines, files)
	if after > goroutines || filesAfter > files+idleReader {
		t.Errorf("before there were %d goroutines and %d descriptors, and afterwards %d and %d", goroutines, files, after, filesAfter)
	}
	t.Logf("%d reloads: %v; %d connections ended before a handler had their request; %d goroutines and %d descriptors before, %d and %d after",
		reloads, sum, w.broken.Load(), goroutines, files, after, filesAfter)
}

// idleReader is how many descriptors the store's reading connections may differ
// by from one moment to the next: one more or less of them, with the database,
// its log and its index.
const idleReader = 3

// steadyLoad makes requests at a fixed rate until the function that it gives is
// called, which waits for the last answer.
//
// A request that gets no response is repeated, as senders do. On a reload Linux
// resets connections that the closing listener has not accepted, and Go's server
// closes those whose request it had not read. A request that a handler had must
// get a response. On a busy disk that may be a 503, which is repeated too: onlySlow
// reports those that had another cause.
func (w *world) steadyLoad() (rest func()) {
	stop, slots := make(chan struct{}), make(chan struct{}, atOnce)
	var all sync.WaitGroup
	at := func(rate int, step func()) {
		all.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				select {
				case slots <- struct{}{}:
					all.Go(func() {
						defer func() { <-slots }()
						step()
					})
				default:
				}
			}
		})
	}
	persist := func(what string, wanted int, try func() answer) {
		a := try()
		slow := false
		for i := 0; (a.status == 0 || a.status == http.StatusServiceUnavailable) && i < 10; i++ {
			if a.status == 0 {
				w.broken.Add(1)
			} else {
				w.slow.Add(1)
				slow = true
				time.Sleep(time.Second)
			}
			a = try()
		}
		switch {
		case a.status == wanted && !a.duplicate, a.status == http.StatusOK && slow:
		case a.status == http.StatusCreated:
			w.slow.Add(1) // not tracked, and the client knows
		default:
			w.ledger.fault("%s got %v", what, a)
		}
	}
	at(edgeRate, func() {
		e := w.newEvent("/webhooks/replicate")
		persist("an event", http.StatusOK, func() answer { return w.post(e) })
	})
	at(createRate, func() { persist("a create", http.StatusCreated, w.create) })
	return func() {
		close(stop)
		all.Wait()
	}
}

// onlySlow reports refusals by the store other than commits that took too long.
func (w *world) onlySlow() {
	w.t.Helper()
	lines := w.Logs.Lines("store is unavailable")
	for _, line := range lines {
		if !strings.Contains(line, "deadline exceeded") {
			w.t.Errorf("refused by the store: %s", line)
		}
	}
	if n := w.slow.Load(); n > 0 {
		if len(lines) == 0 {
			w.t.Errorf("%d requests were refused, and the log does not say why", n)
		}
		w.t.Logf("%d requests were refused since commits took too long", n)
	}
}

func (w *world) mustReload() {
	w.t.Helper()
	if err := w.reload(); err != nil {
		w.t.Fatal(err)
	}
}

// resources counts Caddy's goroutines and file descriptors once it is idle, and
// waits for them to fall to a base, if one is given.
func (w *world) resources(goroutines, files int) (g, f int) {
	w.t.Helper()
	deadline := time.Now().Add(2 * caddyrun.Patience)
	for {
		w.quiet()
		g, f = w.goroutines(), w.descriptors()
		if goroutines > 0 && g <= goroutines && f <= files || time.Now().After(deadline) {
			return g, f
		}
		if goroutines == 0 {
			// The base: what does not change any more.
			goroutines, files = g, f
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// quiet closes the connections that are kept alive on both sides of Caddy.
func (w *world) quiet() {
	w.client.CloseIdleConnections()
	for _, s := range w.servers {
		s.Config.SetKeepAlivesEnabled(false)
		s.Config.SetKeepAlivesEnabled(true)
	}
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

func (w *world) goroutines() int {
	w.t.Helper()
	resp, err := w.client.Get(w.URL("PORT_ADMIN", "/debug/pprof/goroutine?debug=1"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	m := goroutineTotal.FindSubmatch(text)
	if err != nil || m == nil {
		w.t.Fatalf("asking for goroutines: %v %s", err, text)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

func (w *world) descriptors() int {
	w.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.PID()))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(entries)
}
