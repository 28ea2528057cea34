package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// serveAppArg makes this binary the app behind the proxy instead of the bench.
const serveAppArg = "serve-app"

const (
	tallyPath    = "/_bench/tally"
	arrivalsPath = "/_bench/arrivals"
)

// tally is what an app has been given: how many events, and a sum over a hash of
// each one's number. When both are what the sender expects, every event came
// once and only once, without the app remembering any of them.
type tally struct {
	count, sum uint64
}

// expected returns the tally of the events numbered lo to hi, hi not included.
func expected(lo, hi uint64) tally {
	var t tally
	for n := lo; n < hi; n++ {
		t.count++
		t.sum += mix(n)
	}
	return t
}

func (t tally) minus(o tally) tally { return tally{t.count - o.count, t.sum - o.sum} }

// mix is the finalizer of SplitMix64. It spreads neighboring numbers, so that
// an extra event and a missing one do not cancel out in a sum.
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// serveApp runs the app: it reads each webhook, records its number and responds
// with "ok". It ends when its stdin does. The argument is the address, if any.
func serveApp(args []string) error {
	at := "127.0.0.1:0"
	if len(args) > 0 {
		at = args[0]
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	fmt.Println("listening", ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	a := &appHandler{}
	a.buffers.New = func() any { return new(bytes.Buffer) }
	srv := &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(ln)
}

type appHandler struct {
	count, sum atomic.Uint64 // a tally
	buffers    sync.Pool

	timing   atomic.Bool // whether receipts are kept
	mu       sync.Mutex
	receipts []byte // lines of an event's number and when it came
}

var (
	ok = []byte("ok")
	// numberField is how the number of an event begins: in its prediction's
	// id, or in a member of its input.
	numberField = []byte(`":"` + idPrefix)
)

// numberOf finds the number of a webhook or a create.
func numberOf(body []byte) (uint64, bool) {
	_, rest, found := bytes.Cut(body, numberField)
	if !found || len(rest) < 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(rest[:16]), 16, 64)
	return n, err == nil
}

func (a *appHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == tallyPath {
		fmt.Fprintln(w, a.count.Load(), a.sum.Load())
		return
	}
	if r.URL.Path == arrivalsPath {
		a.timing.Store(true)
		a.mu.Lock()
		defer a.mu.Unlock()
		_, _ = w.Write(a.receipts)
		a.receipts = a.receipts[:0]
		return
	}
	if r.Method == http.MethodGet {
		_, _ = w.Write(ok)
		return
	}
	b := a.buffers.Get().(*bytes.Buffer)
	defer a.buffers.Put(b)
	b.Reset()
	if _, err := b.ReadFrom(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n, found := numberOf(b.Bytes())
	if !found {
		http.Error(w, "no event of the bench", http.StatusBadRequest)
		return
	}
	if a.timing.Load() {
		a.mu.Lock()
		a.receipts = fmt.Appendln(a.receipts, n, time.Now().UnixNano())
		a.mu.Unlock()
	}
	a.count.Add(1)
	a.sum.Add(mix(n))
	_, _ = w.Write(ok)
}

// app is the running app as the bench sees it.
type app struct {
	*process
	addr string
}

func startApp(ctx context.Context) (*app, error) { return startAppAt(ctx) }

// startAppAt starts an app at an address, which the arguments are, or at a free one.
func startAppAt(ctx context.Context, args ...string) (*app, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	p, addr, err := startListening(ctx, "the app", exec.Command(self, append([]string{serveAppArg}, args...)...))
	if err != nil {
		return nil, err
	}
	return &app{p, addr}, nil
}

// read asks the app what it has been given so far.
func (a *app) read(ctx context.Context) (tally, error) {
	var t tally
	body, err := get(ctx, "http://"+a.addr+tallyPath)
	if err == nil {
		_, err = fmt.Sscan(string(body), &t.count, &t.sum)
	}
	if err != nil {
		return t, fmt.Errorf("asking the app what it was given: %w", err)
	}
	return t, nil
}

// get fetches a small document from a child.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("response is %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}
