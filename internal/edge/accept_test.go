package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// keeper is a store that notes what is claimed and committed.
type keeper struct {
	forwarded bool
	commit    func(context.Context) error // what each commit does, nil for a success

	entries []store.Entry
	calls   []string
	events  []store.Inbound
}

func (k *keeper) Claim(_ context.Context, e store.Entry, _ time.Duration) (store.Claim, error) {
	k.entries = append(k.entries, e)
	return keeperClaim{k}, nil
}

func (k *keeper) Release() error { return nil }

type keeperClaim struct{ *keeper }

func (c keeperClaim) Forwarded() bool { return c.forwarded }

func (c keeperClaim) Commit(ctx context.Context) error {
	c.calls = append(c.calls, "commit")
	if c.commit == nil {
		return nil
	}
	return c.commit(ctx)
}

func (c keeperClaim) CommitEvent(ctx context.Context, ev *store.Inbound) error {
	c.calls, c.events = append(c.calls, "commit with event"), append(c.events, *ev)
	if c.commit != nil {
		if err := c.commit(ctx); err != nil {
			return err
		}
	}
	ev.ID = "evt_1"
	return nil
}

func (c keeperClaim) Release() { c.calls = append(c.calls, "release") }

// keeping is an edge before a keeper.
type keeping struct {
	*keeper
	*Edge
	t        *testing.T
	secret   signature.Secret
	app      Handler
	outcomes []Outcome
}

func newKeeping(t *testing.T, c Config) *keeping {
	t.Helper()
	secret, err := signature.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		t.Fatal(err)
	}
	k := &keeping{keeper: new(keeper), t: t, secret: secret}
	c.Secrets = func() []signature.Secret { return []signature.Secret{secret} }
	c.DedupKey, c.Scope, c.Budget = "event", "default", body.NewBudget(1<<20)
	c.MaxBody, c.ReadTimeout, c.UpstreamTimeout = 1<<20, time.Minute, time.Minute
	c.Acquire = func() (Store, error) { return k.keeper, nil }
	c.Ended = func(o Outcome) { k.outcomes = append(k.outcomes, o) }
	c.Printable = func(b []byte, cut bool) string { return fmt.Sprintf("%s cut %v", b, cut) }
	c.Received = func(r *http.Request) (string, inbox.Origin) {
		return "/original?a=b", inbox.Origin{ClientIP: "198.51.100.1", Trusted: true}
	}
	k.Edge = New(c)
	k.app = handler(func(http.ResponseWriter, *http.Request) error {
		t.Error("the app was asked")
		return nil
	})
	return k
}

type handler func(http.ResponseWriter, *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) error { return h(w, r) }

// request returns a signed webhook of a prediction.
func (k *keeping) request(text string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/rewritten", strings.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Replicate-Event-Id", "forged")
	r.Header.Set("Cookie", "a=b")
	signature.Sign(r.Header, []signature.Secret{k.secret}, "msg_1", time.Now(), []byte(text))
	return r
}

const keptBody = `{"id":"p1","status":"succeeded"}`

func (k *keeping) serve(r *http.Request) (*httptest.ResponseRecorder, error) {
	w := httptest.NewRecorder()
	return w, k.Serve(w, r, "192.0.2.1", k.app)
}

// did asserts the calls of the claim.
func (k *keeping) did(calls ...string) {
	k.t.Helper()
	if !slices.Equal(k.calls, calls) {
		k.t.Errorf("the claim saw %q, want %q", k.calls, calls)
	}
}

// TestWithAnInboxA2xxIsAStoredEvent: the entry and the event are committed at once,
// then the sender is told, and the app is not asked.
func TestWithAnInboxA2xxIsAStoredEvent(t *testing.T) {
	k := newKeeping(t, Config{Dedup: time.Hour, Inbox: &Inbox{Ordered: true, MaxEvents: 7, MaxBytes: 8}, Record: time.Hour})
	w, err := k.serve(k.request(keptBody))
	if err != nil || w.Code != 200 || w.Header().Get("X-Replicate-Inbox") != "evt_1" || w.Body.Len() != 0 {
		t.Fatalf("%v, %d %v", err, w.Code, w.Header())
	}
	k.did("commit with event", "release")
	ev := k.events[0]
	head, err := inbox.DecodeHead(ev.Head)
	if err != nil {
		t.Fatal(err)
	}
	if head.OriginalURI != "/original?a=b" || head.URI != "/rewritten" || head.ClientIP != "198.51.100.1" || head.MessageID != "msg_1" {
		t.Errorf("the head is %+v", head)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "X-Replicate-Event-Id": "", "Cookie": "", "X-Replicate-Verified": "", "Webhook-Id": "msg_1"} {
		if got := head.Header.Get(name); got != want {
			t.Errorf("%s is kept as %q, want %q", name, got, want)
		}
	}
	ev.Head = nil
	want := store.Inbound{Scope: "default", Name: "prediction.completed", PredictionID: "p1", Ordered: true, Body: []byte(keptBody), MaxEvents: 7, MaxBytes: 8}
	if !reflect.DeepEqual(ev, want) {
		t.Errorf("stored is %+v, want %+v", ev, want)
	}
	if e := k.entries[0]; len(e.Keys) != 1 || e.Scope != "default" {
		t.Errorf("the entry is %+v", e)
	}
	if !slices.Equal(k.outcomes, []Outcome{OutcomeAccepted}) {
		t.Errorf("outcomes are %q", k.outcomes)
	}
}

// TestWithAnInboxNothingIsAcknowledgedWithoutACommit in any way that one can fail.
func TestWithAnInboxNothingIsAcknowledgedWithoutACommit(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		forwarded bool
		outcome   Outcome
	}{
		"full":                      {store.ErrInboxFull, false, OutcomeInboxFull},
		"unavailable":               {fmt.Errorf("%w: disk", store.ErrUnavailable), false, OutcomeStore},
		"late":                      {context.DeadlineExceeded, false, OutcomeStore},
		"full, after a lost commit": {store.ErrInboxFull, true, OutcomeInboxFull},
		"again unavailable":         {store.ErrUnavailable, true, OutcomeStore},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeeping(t, Config{Dedup: time.Hour, Inbox: &Inbox{}})
			k.forwarded, k.commit = test.forwarded, func(context.Context) error { return test.err }
			w, err := k.serve(k.request(keptBody))
			var refused *Refusal
			if !errors.As(err, &refused) || refused.Status != 503 || refused.Header["Retry-After"] == "" || refused.Outcome != test.outcome {
				t.Fatalf("got %v", err)
			}
			if len(w.Header()) != 0 || w.Body.Len() != 0 {
				t.Errorf("the response has %v", w.Header())
			}
		})
	}
}

// TestWithAnInboxALostCommitIsMadeOnce: what was accepted before is committed as it
// is, and no other event is stored.
func TestWithAnInboxALostCommitIsMadeOnce(t *testing.T) {
	k := newKeeping(t, Config{Dedup: time.Hour, Inbox: &Inbox{}})
	k.forwarded = true
	w, err := k.serve(k.request(keptBody))
	if err != nil || w.Code != 200 || w.Header().Get("X-Replicate-Duplicate") != "true" {
		t.Fatalf("%v, %d %v", err, w.Code, w.Header())
	}
	k.did("commit", "release")
}

// TestWithAnInboxACommitOutlivesTheSender within its time.
func TestWithAnInboxACommitOutlivesTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeping(t, Config{Dedup: time.Hour, Inbox: &Inbox{}})
		ctx, leave := context.WithCancel(t.Context())
		k.commit = func(ctx context.Context) error {
			leave()
			began := time.Now()
			<-ctx.Done()
			if took := time.Since(began); took != store.CommitTimeout {
				t.Errorf("the commit had %s", took)
			}
			return ctx.Err()
		}
		if _, err := k.serve(k.request(keptBody).WithContext(ctx)); err == nil {
			t.Error("it was acknowledged")
		}
	})
}

// TestWithAnInboxAndWithoutDedupEachRequestIsStored, and nothing to compare it by.
func TestWithAnInboxAndWithoutDedupEachRequestIsStored(t *testing.T) {
	k := newKeeping(t, Config{Inbox: &Inbox{Ordered: true}, AnyPayload: true, Scheme: signature.Standard})
	for range 2 {
		if w, err := k.serve(k.request(`{"type":"x"}`)); err != nil || w.Header().Get("X-Replicate-Inbox") == "" {
			t.Fatal(err)
		}
	}
	if len(k.events) != 2 || k.events[0].Ordered || k.events[0].Name != "x" || k.events[0].PredictionID != "" {
		t.Errorf("stored are %+v", k.events)
	}
	if e := k.entries[0]; len(e.Keys) != 0 || !e.SignedAt.IsZero() {
		t.Errorf("the entry is %+v", e)
	}
}

// responds is an app with a response.
func responds(status int, length, text string) Handler {
	return handler(func(w http.ResponseWriter, _ *http.Request) error {
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.Header().Set("X-Replicate-Inbox", "evt_of_the_app")
		w.WriteHeader(status)
		_, err := io.WriteString(w, text)
		return err
	})
}

// TestRecordKeepsAcceptedEvents with the app's response, in the commit of the entry.
func TestRecordKeepsAcceptedEvents(t *testing.T) {
	for name, test := range map[string]struct {
		app      Handler
		calls    []string
		status   int
		response string
	}{
		"held":     {responds(201, "6", "thanks"), []string{"commit with event", "release"}, 201, "thanks cut false"},
		"cut":      {responds(200, "9", "thanks"), []string{"commit with event", "release"}, 200, "thanks cut true"},
		"streamed": {responds(200, "", "thanks"), []string{"commit with event", "release"}, 200, " cut false"},
		"refused":  {responds(500, "4", "oops"), []string{"release"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeeping(t, Config{Dedup: time.Hour, Record: 30 * time.Minute})
			k.app = test.app
			if _, err := k.serve(k.request(keptBody)); err != nil {
				t.Fatal(err)
			}
			k.did(test.calls...)
			if test.status == 0 {
				return
			}
			ev := k.events[0]
			a := ev.Recorded
			if ev.KeepFor != 30*time.Minute || string(ev.Body) != keptBody || ev.MaxEvents != 0 || ev.Ordered ||
				a.Status != test.status || a.Response != test.response || a.Number != 1 || a.At.IsZero() {
				t.Errorf("stored is %+v with %+v", ev, a)
			}
			if head, err := inbox.DecodeHead(ev.Head); err != nil || head.Header.Get("X-Replicate-Verified") != "" {
				t.Errorf("the head is %+v, %v", head, err)
			}
		})
	}
}

// TestWithoutRecordTheEntryAloneIsCommitted.
func TestWithoutRecordTheEntryAloneIsCommitted(t *testing.T) {
	k := newKeeping(t, Config{Dedup: time.Hour})
	k.app = responds(200, "2", "ok")
	if _, err := k.serve(k.request(keptBody)); err != nil {
		t.Fatal(err)
	}
	k.did("commit", "release")
}

// TestAnAppCannotClaimThatAnEventIsStored: X-Replicate-Inbox is the edge's own.
func TestAnAppCannotClaimThatAnEventIsStored(t *testing.T) {
	for _, length := range []string{"2", ""} {
		for _, status := range []int{200, 500} {
			k := newKeeping(t, Config{Dedup: time.Hour})
			k.app = responds(status, length, "ok")
			w, err := k.serve(k.request(keptBody))
			if err != nil || w.Code != status || len(w.Result().Header["X-Replicate-Inbox"]) != 0 {
				t.Errorf("%v, %d %v", err, w.Code, w.Result().Header)
			}
		}
	}
}
