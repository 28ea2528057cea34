package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"
)

// serveIllArg makes this binary receivers that work badly.
const serveIllArg = "serve-ill"

// The receivers that work badly, each at an address and so an endpoint of its
// own. Nobody listens at the dead one's.
const (
	illSlow    = "slow"
	illFlaky   = "failing at random"
	illHanging = "hanging"
	illGone    = "gone (410)"
	illDead    = "dead (connection refused)"
)

var illAddrs = map[string]string{
	illSlow: "127.3.0.1", illFlaky: "127.3.0.2", illHanging: "127.3.0.3", illGone: "127.3.0.4", illDead: "127.3.0.5",
}

// slowest is the longest that the slow receiver takes.
const slowest = 1500 * time.Millisecond

// serveIll runs the receivers until its stdin ends. They share the port of the
// address that it prints, where they can be asked how many webhooks they took.
func serveIll() error {
	r := &ill{secret: []byte(os.Getenv(secretEnv))}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(control.Addr().String())
	serve := func(ln net.Listener, h http.HandlerFunc) {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = srv.Serve(ln) }()
	}
	serve(control, r.control)
	for kind, host := range illAddrs {
		if kind == illDead {
			continue
		}
		ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			return err
		}
		serve(ln, func(w http.ResponseWriter, req *http.Request) { r.take(w, req, kind) })
	}
	fmt.Println("listening", control.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// ill is the receivers' own side.
type ill struct {
	secret []byte
	mu     sync.Mutex
	counts
	reason string
}

func (r *ill) control(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(w, "%d %d %s", r.taken, r.refused, r.reason)
}

func (r *ill) take(w http.ResponseWriter, req *http.Request, kind string) {
	var body bytes.Buffer
	if _, err := body.ReadFrom(io.LimitReader(req.Body, 1<<20)); err != nil {
		return
	}
	h := hook{
		body: body.Bytes(), mac: hmac.New(sha256.New, r.secret),
		signature: []byte(req.Header.Get(string(headerSignature))), event: []byte(req.Header.Get(string(headerEvent))),
	}
	reason := h.check()
	r.mu.Lock()
	r.taken++
	if reason != "" {
		r.refused++
		r.reason = reason
	}
	r.mu.Unlock()
	switch kind {
	case illSlow:
		pause(req.Context(), slowest/3+rand.N(slowest*2/3))
	case illHanging:
		<-req.Context().Done()
	case illGone:
		w.WriteHeader(http.StatusGone)
	case illFlaky:
		switch n := rand.IntN(20); {
		case n < 5:
			w.WriteHeader(http.StatusInternalServerError)
		case n < 7:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case n < 9:
			panic(http.ErrAbortHandler) // the connection breaks off
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// startIll starts the receivers.
func (l *lab) startIll(ctx context.Context) (*receiver, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, serveIllArg)
	cmd.Env = append(os.Environ(), secretEnv+"="+l.signer.secret)
	p, addr, err := startListening(ctx, "the receivers that work badly", cmd)
	if err != nil {
		return nil, err
	}
	l.onClose(p.stop)
	return &receiver{p, addr}, nil
}
