package faults_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// secret signs webhooks both ways.
const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// world is a Caddy in a process of its own with everything around it: an app
// behind the edge, a prediction API, and a receiver of deliveries, which outlive
// it and remember.
type world struct {
	*caddyrun.Child
	t      *testing.T
	ledger *ledger
	api    *fakeapi.API
	hook   string // URL of the receiver
	text   string // the Caddyfile
	client *http.Client
	// servers are what Caddy talks to.
	servers []*httptest.Server
	// broken counts connections that ended without an answer in TestReload.
	broken atomic.Int64
	// slow counts requests in TestReload that the store refused.
	slow atomic.Int64
	// lease is how long a node that died holds on to what it had begun.
	lease time.Duration
}

// newWorld prepares a world whose Caddy has the store of the Caddyfile line.
func newWorld(t *testing.T, store string) *world {
	t.Helper()
	w := &world{t: t, ledger: newLedger(), api: fakeapi.New(fakeapi.Options{Run: 40 * time.Millisecond})}
	serve := func(h http.Handler) *httptest.Server {
		s := httptest.NewServer(h)
		w.servers = append(w.servers, s)
		t.Cleanup(func() {
			s.CloseClientConnections()
			s.Close()
		})
		return s
	}
	app := serve(http.HandlerFunc(w.app))
	api := serve(w.api)
	hook := serve(http.HandlerFunc(w.receive))
	w.hook = hook.URL + "/hook"
	w.text = fmt.Sprintf(`{
	storage file_system {$DIR}/storage
	admin 127.0.0.1:{$PORT_ADMIN}
	auto_https off
	default_bind 127.0.0.1
	grace_period 10s
	log {
		output stderr
		format json
		level WARN
	}
	replicate_webhook {
		store %s
		signing shared
		signing_secret {env.FAULTS_SECRET}
		seal_key {env.FAULTS_SECRET}
		poll 20ms 200ms
		retry {
			max_attempts 8
			initial_delay 20ms
			max_delay 200ms
		}
		timeout 5s
		workers 32
		egress {
			allow_http
			ports %s
			allow 127.0.0.0/8
		}
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.FAULTS_SECRET}
			scope long
		}
		reverse_proxy %[3]s
	}
	handle /webhooks/brief {
		replicate_webhook {
			secret {env.FAULTS_SECRET}
			scope brief
			tolerance 3s
			dedup 6s
		}
		reverse_proxy %[3]s
	}
	handle /webhooks/inbox {
		replicate_webhook {
			secret {env.FAULTS_SECRET}
			scope queue
			inbox {
				max_delay 20ms
				concurrency %[5]d
				handle {
					reverse_proxy %[3]s
				}
			}
		}
	}
	handle {
		respond 404
	}
}
http://127.0.0.1:{$PORT2} {
	replicate_predictions /v1/* {
		api %[4]s/v1
	}
	reverse_proxy %[4]s
}
`, store, hook.URL[strings.LastIndexByte(hook.URL, ':')+1:], app.Listener.Addr(), api.URL, inHand)
	w.Child = caddyrun.NewChild(t, w.text)
	w.Environ = append(w.Environ, "FAULTS_SECRET="+secret)
	w.client = w.Client
	return w
}

// withKeyFile leaves the sealing key to a file beside the database.
func (w *world) withKeyFile() *world {
	w.text = strings.Replace(w.text, "seal_key {env.FAULTS_SECRET}\n", "", 1)
	w.Configure(w.text)
	return w
}

// app is the app behind the edge. It counts what reaches it by the webhook's id.
func (w *world) app(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == inboxPath {
		w.passedOn(rw, r)
		return
	}
	_, err := io.Copy(io.Discard, r.Body)
	id := r.Header.Get("X-Replicate-Prediction-Id")
	w.ledger.mu.Lock()
	e := w.ledger.events[id]
	if e != nil && err == nil {
		e.seen++
	}
	w.ledger.mu.Unlock()
	if e == nil {
		w.ledger.fault("the app got event %q, which nobody sent", id)
	}
}

// receive is the clients' receiver. It refuses the first attempt of one delivery
// in five.
func (w *world) receive(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var payload struct {
		Event      string
		Prediction struct{ ID string }
	}
	if err := json.Unmarshal(body, &payload); err != nil || r.Header.Get("X-Replicate-Signature") != sign(string(body)) {
		w.ledger.fault("the receiver got a webhook that does not verify: %v %s", r.Header, body)
		return
	}
	delivery := r.Header.Get("X-Replicate-Delivery")
	first := w.ledger.received(payload.Prediction.ID, receipt{delivery: delivery, event: payload.Event, attempt: r.Header.Get("X-Replicate-Attempt")})
	if first && delivery[len(delivery)-1]%5 == 0 {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.ledger.accepted(payload.Prediction.ID, delivery)
}

func sign(body string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	return hex.EncodeToString(m.Sum(nil))
}

// newEvent enters a new event into the ledger.
func (w *world) newEvent(path string) *webhook {
	return w.newEventOf(strings.ToLower(rand.Text()), "prediction.completed", path)
}

// newEventOf enters a new event of a prediction into the ledger.
func (w *world) newEventOf(prediction, event, path string) *webhook {
	e := &webhook{id: prediction, prediction: prediction, event: event, path: path, at: time.Now()}
	status := "succeeded"
	if path == inboxPath {
		e.id += " " + event
	}
	if event == "prediction.started" {
		status = "processing"
	}
	e.body = fmt.Sprintf(`{"event":%q,"prediction":{"id":%q,"version":"v1","input":{},"output":"a result","status":%q,"created_at":"2026-01-01T00:00:00.000Z"},"timestamp":%q}`,
		event, prediction, status, e.at.UTC().Format("2006-01-02T15:04:05.000Z"))
	e.signature = sign(e.body)
	w.ledger.update(func() { w.ledger.events[e.id] = e })
	return e
}

// answer is what a sender gets. Status 0 is no answer.
type answer struct {
	status    int
	duplicate bool
	header    http.Header
	body      []byte
	err       error
}

func (a answer) String() string {
	return fmt.Sprintf("%d duplicate=%v %s %v", a.status, a.duplicate, a.body, a.err)
}

// post posts an event to the edge and enters the answer.
func (w *world) post(e *webhook) answer {
	a := w.do(e.path, "PORT1", e.body, "X-Replicate-Signature", e.signature)
	w.ledger.update(func() {
		switch {
		case a.status == http.StatusOK && !w.ledger.dead:
			w.ledger.answer(anEvent)
			if !e.accepted {
				e.accepted, e.generation = true, w.ledger.generation
			}
			w.ledger.stored(e, a.header.Get("X-Replicate-Inbox"))
		case a.status == 0, w.ledger.dead:
			e.unanswered++
		}
	})
	return a
}

// create creates a prediction with a webhook and enters the answer.
func (w *world) create() answer {
	body := fmt.Sprintf(`{"version":"v1","input":{"prompt":"a landscape"},"webhook_url":%q}`, w.hook)
	a := w.do("/v1/predictions", "PORT2", body, "Authorization", "Bearer r8_the_token_of_a_client")
	if a.status != http.StatusCreated {
		return a
	}
	var p struct {
		ID      string
		Webhook string `json:"webhook_status"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		w.ledger.fault("the answer to a create is %v: %v", a, err)
	}
	a.duplicate = p.Webhook == "failed" // not kept, and the client knows
	w.ledger.update(func() {
		if w.ledger.dead {
			return
		}
		w.ledger.answer(aCreate)
		if !a.duplicate {
			w.ledger.creates[p.ID] = true
		}
	})
	return a
}

func (w *world) do(path, port, body string, header ...string) answer {
	r, err := http.NewRequest(http.MethodPost, w.URL(port, path), strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{err: err}
	}
	return answer{resp.StatusCode, resp.Header.Get("X-Replicate-Duplicate") == "true", resp.Header, text, nil}
}

// crashed ends a generation. What the process that died has sent may be read
// after its death, so the time until the next one starts is a generation of its
// own.
func (w *world) crashed() {
	w.ledger.update(func() {
		w.ledger.crashes++
		w.ledger.generation++
	})
}

// Start runs Caddy, in a new generation.
func (w *world) Start(port string) {
	w.t.Helper()
	w.ledger.update(func() { w.ledger.generation++ })
	w.Child.Start(port)
}

// Launch is Start that does not wait until Caddy listens.
func (w *world) Launch() {
	w.t.Helper()
	w.ledger.update(func() { w.ledger.generation++ })
	w.Child.Launch()
}

// kill ends Caddy as a crash does. Requests that are under way see it.
func (w *world) kill() {
	w.Kill()
	w.crashed()
}

// load runs senders, creators, and those that do both in turn, until stop is
// closed.
func (w *world) load(stop <-chan struct{}, senders, creators, both int) *sync.WaitGroup {
	var wg sync.WaitGroup
	run := func(step func(i int) answer) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if step(i).status == 0 {
					// Caddy is gone, or about to be.
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}
		})
	}
	for range senders {
		run(w.sendNew)
	}
	for range creators {
		run(w.createNew)
	}
	for range both {
		run(func(i int) answer {
			if i%2 == 0 {
				return w.sendNew(i / 2)
			}
			return w.createNew(i)
		})
	}
	return &wg
}

// sendNew sends a new event, which a well disk takes.
func (w *world) sendNew(i int) answer {
	switch i % 4 {
	case 1:
		return w.sendToInbox()
	case 3:
		return w.send(w.newEvent("/webhooks/brief"))
	default:
		return w.send(w.newEvent("/webhooks/replicate"))
	}
}

// send sends an event that is new.
func (w *world) send(e *webhook) answer {
	path := e.path
	a := w.post(e)
	switch {
	case a.status == http.StatusUnauthorized && path == "/webhooks/brief" && time.Since(e.at) > 2*time.Second:
		// A slow machine took longer than the tolerance.
		w.ledger.update(func() { delete(w.ledger.events, e.id) })
	case a.status != 0 && (a.status != http.StatusOK || a.duplicate):
		w.ledger.refused("a new event got %v", a)
	}
	return a
}

// createNew creates a prediction, which a well disk takes.
func (w *world) createNew(int) answer {
	a := w.create()
	if a.status != 0 && (a.status != http.StatusCreated || a.duplicate) {
		w.ledger.refused("a create got %v", a)
	}
	return a
}

// together runs f for each event, some at a time.
func together(events []*webhook, f func(*webhook)) {
	var wg sync.WaitGroup
	next := make(chan *webhook)
	for range 16 {
		wg.Go(func() {
			for e := range next {
				f(e)
			}
		})
	}
	for _, e := range events {
		next <- e
	}
	close(next)
	wg.Wait()
}

// check holds the edge's promises against the Caddy that was started after a
// crash.
func (w *world) check() {
	w.t.Helper()
	w.keeps()
	w.remembers()
	w.takesAgain()
	// What is forgotten is too old to be accepted again.
	expired := w.ledger.selected(func(e *webhook) bool {
		return e.accepted && e.path == "/webhooks/brief" && time.Since(e.at) > 4*time.Second
	})
	together(expired[:min(len(expired), 20)], func(e *webhook) {
		if a := w.post(e); a.status != http.StatusUnauthorized {
			w.ledger.fault("event %s is past its tolerance and got %v", e.id, a)
		}
	})
}

// askAgain is how many events that were found to be remembered before are asked
// for again after each start.
const askAgain = 100

// remembers wants what was accepted before the last crash to be a duplicate: all
// that nobody has asked for since, however many crashes ago that was, and some of
// the rest.
func (w *world) remembers() {
	now := w.ledger.generation
	known := func(asked bool) []*webhook {
		return w.ledger.selected(func(e *webhook) bool {
			return e.accepted && e.generation < now && e.asked == asked && e.path != "/webhooks/brief" && time.Since(e.at) < 4*time.Minute
		})
	}
	again := known(true) // in the order of a map
	together(append(known(false), again[:min(len(again), askAgain)]...), func(e *webhook) {
		a := w.post(e)
		w.ledger.update(func() { e.asked = a.duplicate })
		if !a.duplicate {
			w.ledger.fault("event %s was accepted before the crash and got %v after it", e.id, a)
		}
	})
}

// takesAgain wants what got no answer to be accepted with its retry: at once, or
// when the lease of the node that died has ended.
func (w *world) takesAgain() {
	deadline := time.Now().Add(w.lease + caddyrun.Patience)
	together(w.ledger.selected(func(e *webhook) bool { return !e.accepted }), func(e *webhook) {
		for {
			a := w.post(e)
			fresh := e.path != "/webhooks/brief" || time.Since(e.at) < time.Second
			switch {
			case a.status == http.StatusOK, time.Since(e.at) > 4*time.Minute:
			case a.status == http.StatusUnauthorized && !fresh:
				w.ledger.update(func() { delete(w.ledger.events, e.id) }) // too old by now
			case a.status == http.StatusServiceUnavailable && w.lease > 0 && time.Now().Before(deadline):
				continue
			default:
				w.ledger.fault("event %s got no answer before the crash and %v after it", e.id, a)
			}
			return
		}
	})
}

// drain waits until everything owed has arrived.
func (w *world) drain() {
	w.t.Helper()
	deadline := time.NewTimer(8 * caddyrun.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(w.ledger.owed()) > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			return // the audit says what is missing
		}
	}
}

// settle waits until no delivery is pending that a receiver has accepted from the
// process that runs. Its outcome is committed then, and it may never be made
// again, whatever happens to the process.
func (w *world) settle() {
	w.t.Helper()
	accepted := w.ledger.acceptedNow()
	deadline := time.Now().Add(2 * caddyrun.Patience)
	for {
		pending, err := w.pending()
		left := slices.DeleteFunc(slices.Clone(accepted), func(id string) bool { return err == nil && !pending[strings.TrimSuffix(id, replayed)] })
		switch {
		case err == nil && len(left) == 0:
			w.ledger.settle(accepted)
			return
		case time.Now().After(deadline):
			w.t.Fatalf("the outcomes of %d deliveries of %d are not kept: %v, %v", len(left), len(accepted), left[:min(len(left), 5)], err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pending returns the ids of the deliveries and events that the store has as not
// ended. Right after a start the admin endpoint has no answer yet.
func (w *world) pending() (map[string]bool, error) {
	ids := make(map[string]bool)
	for _, list := range []string{"deliveries?state=pending", "events?state=waiting", "events?state=running"} {
		if err := w.list(list, ids); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// list adds the ids of a list of the admin API.
func (w *world) list(list string, ids map[string]bool) error {
	for cursor := ""; ; {
		resp, err := w.client.Get(w.URL("PORT_ADMIN", "/replicate_webhook/"+list+"&limit=500&cursor="+cursor))
		if err != nil {
			return err
		}
		var page struct {
			Results []struct{ ID string }
			Next    string
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		_ = resp.Body.Close()
		switch {
		case resp.StatusCode != http.StatusOK:
			return fmt.Errorf("asking for %s: status %d", list, resp.StatusCode)
		case err != nil:
			return err
		}
		for _, d := range page.Results {
			ids[d.ID] = true
		}
		if cursor = page.Next; cursor == "" {
			return nil
		}
	}
}
