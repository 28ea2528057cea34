package delivery_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

var (
	trials      = flag.Int("trials", 60, "how many creates TestBrokenCreatesAreNeverMadeTwice breaks, for each way to learn of a prediction")
	predictions = flag.Int("predictions", 40, "how many predictions TestFailingReceiverGetsEachTerminalWebhook creates")
)

// repeats is how often a client sends a create with one key.
const repeats = 6

// paid is an API that counts its creates by their prompt, and breaks the connection of
// some after so many bytes of its response.
type paid struct {
	api *fakeapi.API
	mu  sync.Mutex
	of  map[string]*bill
}

// bill is what the API has of one trial.
type bill struct {
	breakAfter int // -1: not
	creates    int
	id         string
	callback   string
}

func (p *paid) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		p.api.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // Caddy was killed while it sent the create
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	p.api.ServeHTTP(rec, r)
	var sent struct {
		Webhook string
		Input   struct{ Prompt string }
	}
	var made struct{ ID string }
	_ = json.Unmarshal(body, &sent)
	_ = json.Unmarshal(rec.Body.Bytes(), &made)
	p.mu.Lock()
	b := p.of[sent.Input.Prompt]
	b.creates++
	b.id, b.callback = made.ID, sent.Webhook
	n := b.breakAfter
	p.mu.Unlock()
	breakOff(w, rec, n)
}

// TestBrokenCreatesAreNeverMadeTwice: creates are repeated with their key while
// connections break at any byte, on either side, and Caddy is killed. The API sees each
// at most once, and exactly once if the client got a response from it. In the end each
// client has the prediction, or knows that it may exist; with a callback it has it.
func TestBrokenCreatesAreNeverMadeTwice(t *testing.T) {
	for _, callback := range []bool{false, true} {
		t.Run(fmt.Sprintf("callback %v", callback), func(t *testing.T) {
			h := newHook(t)
			conf := config{ports: []string{portOf(h.Server)}}
			if callback {
				conf = withCallback(h)
			}
			s := prepare(t, fakeapi.Options{Manual: true}, conf)
			api := &paid{api: s.api, of: make(map[string]*bill)}
			upstream := httptest.NewUnstartedServer(api)
			upstream.Config.SetKeepAlivesEnabled(false)
			upstream.Start()
			t.Cleanup(upstream.Close)
			s.child = caddyrun.NewChild(t, conf.text(upstream.URL+"/v1"))
			s.Env, s.client, s.logs = s.child.Env, s.child.Client, s.child.Logs
			s.child.Start("PORT1")

			outcomes := make(map[string]int)
			for from := 0; from < *trials; from += together {
				var group []*trial
				for n := from; n < min(from+together, *trials); n++ {
					tr := &trial{name: fmt.Sprintf("trial-%d", n), leaves: n%3 == 0, bill: &bill{breakAfter: -1}}
					url := ""
					if callback || n%2 == 0 {
						url = h.URL
					}
					tr.body = strings.Replace(trialBody(url), "a landscape", tr.name, 1)
					if n%3 == 1 {
						tr.bill.breakAfter = rand.IntN(responseSize)
					}
					api.add(tr)
					group = append(group, tr)
				}
				sent := make(chan struct{}, together*repeats)
				var wg sync.WaitGroup
				for _, tr := range group {
					wg.Go(func() { s.repeat(tr, sent) })
				}
				if from/together%4 == 0 {
					for range 1 + rand.IntN(len(group)*repeats/2) {
						<-sent
					}
					s.child.Kill()
					s.child.Start("PORT1")
				}
				wg.Wait()
				for _, tr := range group {
					outcomes[s.knows(api, tr, callback)]++
				}
			}
			t.Log(outcomes)
			if outcomes[hasIt] == 0 {
				t.Errorf("the outcomes are %v", outcomes)
			}
		})
	}
}

const (
	// together is how many creates are under way at a time.
	together = 8
	// responseSize is a little more than the bytes of a response.
	responseSize = 900
)

// What a client knows in the end.
const (
	hasIt    = "has its prediction"
	mayExist = "knows that it may exist"
)

// trial is one create, which is repeated.
type trial struct {
	name, body string
	leaves     bool // in the middle of a response
	*bill
}

func trialBody(url string) string {
	if url == "" {
		return plainBody
	}
	return createBody(url)
}

func (p *paid) add(tr *trial) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of[tr.name] = tr.bill
}

// repeat sends a create again and again.
func (s *site) repeat(tr *trial, sent chan<- struct{}) {
	for try := range repeats {
		if tr.leaves && try < repeats/2 {
			s.leaveAfter(tr.name, tr.body, rand.IntN(responseSize))
		} else {
			_, _ = s.try(http.MethodPost, "/v1/predictions", tr.body, "Idempotency-Key", tr.name)
		}
		sent <- struct{}{}
	}
}

// knows asks once more, and returns what the client knows of its create.
func (s *site) knows(api *paid, tr *trial, callback bool) string {
	s.t.Helper()
	var a answer
	s.eventually("the create to end", func() bool {
		// All repeats may have come while Caddy was down, so that this is the first,
		// whose connection breaks.
		var err error
		a, err = s.try(http.MethodPost, "/v1/predictions", tr.body, "Idempotency-Key", tr.name)
		return err == nil && a.status != http.StatusBadGateway && !strings.Contains(a.body, "still running")
	})
	api.mu.Lock()
	b := *tr.bill
	api.mu.Unlock()
	if b.creates > 1 {
		s.t.Fatalf("%s was made %d times, and the client got %v", tr.name, b.creates, a)
	}
	known := a.status == http.StatusCreated || a.status == http.StatusOK
	switch {
	case known && (b.creates != 1 || s.read(a).ID != b.id):
		s.t.Fatalf("%s is %+v, and the client got %v", tr.name, b, a)
	case !known && (a.status != http.StatusConflict || !strings.Contains(a.body, "may have accepted it")):
		s.t.Fatalf("%s: the client got %v", tr.name, a)
	case !known && callback && b.creates == 1:
		s.callBackAs(b.id, b.callback)
		if a = s.keyedCreate(tr.name, tr.body); s.read(a).ID != b.id {
			s.t.Fatalf("%s is %+v, and after its callback the client got %v", tr.name, b, a)
		}
		known = true
	}
	if known {
		return hasIt
	}
	return mayExist
}

// TestFailingReceiverGetsEachTerminalWebhook: the official client creates predictions,
// and its receiver, which validates with the client's own code, fails three of ten
// requests. It accepts each terminal webhook once all the same.
func TestFailingReceiverGetsEachTerminalWebhook(t *testing.T) {
	c := unchanged
	c.options = append(slices.Clone(c.options), "poll 100ms 1s", "retry {\n max_attempts 30\n initial_delay 10ms\n max_delay 1s\n}")
	s := start(t, fakeapi.Options{}, c)
	o := s.newOfficial()
	r := s.newReceiver("SECRET=" + o.nativeKey())
	ids := make(map[string]int)
	for n := range *predictions {
		v := o.call("predictions.create", object{"version": "v1", "input": object{"n": n}, "webhook": r.url + "?native&fail=503&share=0.3"})
		ids[v.ID] = 0
	}
	left, failed := len(ids), 0
	for n := 1; left > 0; n++ {
		v, g := r.native(n, "completed")
		if g.Answered != http.StatusOK {
			failed++
			continue
		}
		if times, known := ids[v.ID]; !known || times > 0 {
			t.Fatalf("%s was accepted %d times before, and is one of ours: %v", v.ID, times, known)
		}
		ids[v.ID]++
		left--
	}
	t.Logf("%d of %d requests failed", failed, failed+len(ids))
	if failed == 0 {
		t.Error("no request failed")
	}
}
