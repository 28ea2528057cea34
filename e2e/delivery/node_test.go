package delivery_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// child is a script that runs on Node.js. It ends when its input does.
type child struct {
	t  *testing.T
	in io.WriteCloser

	mu      sync.Mutex
	lines   []string
	ended   bool
	changed chan struct{}
}

// startNode runs a script with more environment.
func startNode(t *testing.T, script string, environ ...string) *child {
	t.Helper()
	cmd := exec.Command(testenv.NeedNode(t, "."), script)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Env = append(cmd.Env, "NODE_ENV=production")
	var errs strings.Builder
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, in: in, changed: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read(out)
	}()
	t.Cleanup(func() {
		_ = in.Close()
		kill := time.AfterFunc(caddyrun.Patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, &errs)
		} else if t.Failed() && errs.Len() > 0 {
			t.Logf("%s said: %s", script, &errs)
		}
	})
	return c
}

func (c *child) read(out io.Reader) {
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		c.mu.Lock()
		if err == nil {
			c.lines = append(c.lines, line)
		}
		c.ended = err != nil
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// line waits for the nth line, from 0.
func (c *child) line(n int) string {
	c.t.Helper()
	deadline := time.NewTimer(caddyrun.Patience)
	defer deadline.Stop()
	for {
		c.mu.Lock()
		lines, ended, changed := c.lines, c.ended, c.changed
		c.mu.Unlock()
		if len(lines) > n {
			return lines[n]
		}
		if ended {
			c.t.Fatal("the script has ended")
		}
		select {
		case <-changed:
		case <-deadline.C:
			c.t.Fatalf("waited in vain for line %d of a script; it said %q", n, lines)
		}
	}
}

func (c *child) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lines)
}

// receiver is the guide's Express receiver.
type receiver struct {
	*child
	url string
}

// received is a request as the receiver saw it.
type received struct {
	URL      string `json:"url"`
	Event    string `json:"event"`
	Attempt  int    `json:"attempt"`
	Delivery string `json:"delivery"`
	// Verified are those who did: guide, replicate, standardwebhooks, svix.
	Verified  []string          `json:"verified"`
	SHA256    string            `json:"sha256"`
	Length    int               `json:"length"`
	Timestamp string            `json:"timestamp"`
	Headers   map[string]string `json:"headers"`
	Body      string            `json:"body"`
	Parsed    struct{ Event, ID, Status string }
	Answered  int    `json:"answered"`
	Error     string `json:"error"`
}

// newReceiver starts a receiver on the site's PORT_HOOK.
func (s *site) newReceiver(environ ...string) *receiver {
	s.t.Helper()
	return s.newReceiverOn("PORT_HOOK", environ...)
}

func (s *site) newReceiverOn(port string, environ ...string) *receiver {
	s.t.Helper()
	environ = append([]string{"SECRET=" + secret, "LIMIT=32mb", fmt.Sprint("PORT=", s.Port(port))}, environ...)
	r := &receiver{startNode(s.t, "receiver.mjs", environ...), s.URL(port, "/webhooks/replicate")}
	r.line(0) // it listens
	return r
}

// wait waits for the nth request, from 1.
func (r *receiver) wait(n int) (got received) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.line(n)), &got); err != nil {
		r.t.Fatal(err)
	}
	return got
}

// all are the requests so far.
func (r *receiver) all() (all []received) {
	r.t.Helper()
	for n := 1; n < r.count(); n++ {
		all = append(all, r.wait(n))
	}
	return all
}

// got compares what came so far, as "event attempt".
func (r *receiver) got(want string) {
	r.t.Helper()
	var all []string
	for _, g := range r.all() {
		all = append(all, fmt.Sprintf("%s %d", strings.TrimPrefix(g.Event, "prediction."), g.Attempt))
	}
	if got := strings.Join(all, ", "); got != want {
		r.t.Fatalf("the receiver got %q, want %q", got, want)
	}
}

// verified fails unless the guide's code and all libraries verified a request.
func (r *receiver) verified(g received) {
	r.t.Helper()
	slices.Sort(g.Verified)
	if !slices.Equal(g.Verified, []string{"guide", "replicate", "standardwebhooks", "svix"}) {
		r.t.Fatalf("attempt %d of %s is verified by %q alone: %.300s", g.Attempt, g.Event, g.Verified, g.Body)
	}
}

// official is the official client.
type official struct {
	*child
	token string
	n     int
}

// newOfficial starts a client of the site.
func (s *site) newOfficial() *official {
	s.t.Helper()
	return &official{child: startNode(s.t, "client.mjs", "BASE_URL="+s.URL("PORT1", "/v1")), token: token}
}

// try calls a method of the client.
func (o *official) try(call string, args ...any) (result json.RawMessage, status int, err error) {
	o.t.Helper()
	line, err := json.Marshal(map[string]any{"token": o.token, "call": call, "args": args})
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := o.in.Write(append(line, '\n')); err != nil {
		o.t.Fatal(err)
	}
	var a struct {
		Result json.RawMessage
		Status int
		Error  string
	}
	if err := json.Unmarshal([]byte(o.line(o.n)), &a); err != nil {
		o.t.Fatal(err)
	}
	o.n++
	if a.Error != "" {
		return nil, a.Status, fmt.Errorf("%s: %s", call, a.Error)
	}
	return a.Result, a.Status, nil
}

// call is try of what has to succeed, with a prediction as its result.
func (o *official) call(call string, args ...any) (v view) {
	o.t.Helper()
	result, _, err := o.try(call, args...)
	if err == nil {
		err = json.Unmarshal(result, &v)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return v
}

// object is a call's options.
type object = map[string]any
