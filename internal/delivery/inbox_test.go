package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// app is an app behind an inbox that responds as a function says.
type app func(ctx context.Context, d *store.Delivery, attempt int) AppResponse

func (f app) Pass(ctx context.Context, d *store.Delivery, attempt int) AppResponse {
	return f(ctx, d, attempt)
}

// inbox returns a change of a configuration that adds an inbox to it.
func inbox(a app, change ...func(*Inbox)) func(*Config) {
	return func(c *Config) {
		i := Inbox{Scope: "default", RetryFor: 72 * time.Hour, MaxDelay: 5 * time.Minute, Concurrency: 16, App: a}
		for _, f := range change {
			f(&i)
		}
		c.Inboxes = append(c.Inboxes, i)
		c.Pauses = c.Store.(*memStore).Pauses
	}
}

func noNetwork(*http.Request) (*http.Response, error) { return nil, errRefused }

// calls are the events that an app had, and when.
type calls struct {
	mu   sync.Mutex
	list []call
}

type call struct {
	n  int64
	at time.Time
}

func (c *calls) add(d *store.Delivery) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, call{d.N, time.Now()})
	return len(c.list)
}

func (c *calls) all() []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// TestAppResponses: what an app says decides what becomes of the event, and of the
// others.
func TestAppResponses(t *testing.T) {
	broken := errors.New("dial tcp: connection refused")
	for name, c := range map[string]struct {
		AppResponse
		disposition store.Disposition
		outcome     Outcome
		refused     bool
		text        string
	}{
		"200":                  {AppResponse{Status: 200}, store.Delivered, OutcomeSuccess, false, ""},
		"204, then an error":   {AppResponse{Status: 204, Err: broken}, store.Delivered, OutcomeSuccess, false, ""},
		"301":                  {AppResponse{Status: 301}, store.Retry, OutcomeRedirect, true, "status 301"},
		"400":                  {AppResponse{Status: 400}, store.Retry, OutcomeClientError, true, "status 400"},
		"410":                  {AppResponse{Status: 410}, store.Gone, OutcomeGone, false, "status 410"},
		"429":                  {AppResponse{Status: 429}, store.Retry, OutcomeThrottled, true, "status 429"},
		"500":                  {AppResponse{Status: 500}, store.Retry, OutcomeServerError, true, "status 500"},
		"502 of its own":       {AppResponse{Status: 502, Sent: true}, store.Retry, OutcomeUnavailable, false, "status 502"},
		"no connection":        {AppResponse{Status: 502, Err: broken}, store.Retry, OutcomeUnavailable, false, "status 502: dial tcp: connection refused"},
		"503":                  {AppResponse{Status: 503}, store.Retry, OutcomeUnavailable, false, "status 503"},
		"timeout connecting":   {AppResponse{Status: 504, TimedOut: true}, store.Retry, OutcomeUnavailable, false, "status 504"},
		"timeout after it":     {AppResponse{Status: 504, TimedOut: true, Sent: true}, store.Retry, OutcomeUnavailable, true, "status 504"},
		"its time is over":     {AppResponse{TimedOut: true, Sent: true, Err: context.DeadlineExceeded}, store.Retry, OutcomeTimeout, true, "timeout: context deadline exceeded"},
		"no status":            {AppResponse{}, store.Retry, OutcomeInternal, true, "the inbox's handlers gave no final status"},
		"an error, no status":  {AppResponse{Err: errors.New("no such template")}, store.Retry, OutcomeInternal, true, "no such template"},
		"a status that is odd": {AppResponse{Status: 999}, store.Retry, OutcomeServerError, true, "status 999"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemStore()
				first := true
				engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
					if first {
						first = false
						return c.AppResponse
					}
					return AppResponse{Status: 200}
				}))
				s.accept(1, "default")
				synctest.Wait()
				got := s.outcomes(t)
				if len(got) != 1 {
					t.Fatalf("%d attempts", len(got))
				}
				o := got[0]
				if o.Disposition != c.disposition || o.Refused != c.refused || o.Attempt.Error != c.text || o.Attempt.Status != c.Status {
					t.Errorf("got disposition %v, refused %v, status %d, %q", o.Disposition, o.Refused, o.Attempt.Status, o.Attempt.Error)
				}
				if r := c.AppResponse.result(); r.outcome != c.outcome {
					t.Errorf("outcome %v, want %v", r.outcome, c.outcome)
				}
				if c.disposition == store.Retry {
					if wait := o.Due.Sub(o.Attempt.At); wait != time.Second {
						t.Errorf("tried again after %v", wait)
					}
					time.Sleep(time.Second)
					synctest.Wait()
					if got := s.outcomes(t); len(got) != 2 || got[1].Disposition != store.Delivered || got[1].Attempt.Number != 2 {
						t.Errorf("then %+v", got)
					}
				}
			})
		})
	}
}

// TestRefusedEventBacksOffAlone: an event that the app refuses waits 1 s, 2 s, 4 s and
// so on up to max_delay, for retry_for, while the others reach the app at once.
func TestRefusedEventBacksOffAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var had calls
		failed := make(chan Report, 1)
		engine(t, s, noNetwork, inbox(func(_ context.Context, d *store.Delivery, _ int) AppResponse {
			had.add(d)
			if d.N == 1 {
				return AppResponse{Status: 500}
			}
			return AppResponse{Status: 200}
		}, func(i *Inbox) { i.RetryFor, i.MaxDelay = time.Hour, time.Minute }), func(c *Config) {
			c.OnInboxFailed = func(r Report) { failed <- r }
		})
		began := time.Now()
		s.accept(1, "default")
		for n := range int64(20) {
			time.Sleep(time.Second)
			at := time.Now()
			s.accept(100+n, "default")
			synctest.Wait()
			if last := had.all()[len(had.all())-1]; !last.at.Equal(at) {
				t.Fatalf("event %d was with the app after %v", n, at.Sub(last.at))
			}
		}
		time.Sleep(2 * time.Hour)
		var waits []time.Duration
		last := began
		for _, c := range had.all() {
			if c.n == 1 {
				waits = append(waits, c.at.Sub(last))
				last = c.at
			}
		}
		want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60}
		for i, w := range want {
			if waits[i] != w*time.Second {
				t.Fatalf("waits are %v", waits)
			}
		}
		r := <-failed
		if took := last.Sub(began); took < time.Hour || took > time.Hour+2*time.Minute || r.Attempt.Number != len(waits) || r.Delivery.Payload != nil {
			t.Errorf("given up after %v: %+v", took, r)
		}
	})
}

// TestAppThatIsDown: after ten failures in a row of three events or more, one event
// probes every 5 seconds, each time another, and all go on once the app is back.
func TestAppThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var had calls
		var down sync.Map
		down.Store("down", true)
		e := engine(t, s, noNetwork, inbox(func(_ context.Context, d *store.Delivery, _ int) AppResponse {
			had.add(d)
			if _, is := down.Load("down"); is {
				return AppResponse{Status: 502, Err: errRefused}
			}
			return AppResponse{Status: 200}
		}))
		const events = 1000
		for n := range int64(events) {
			s.accept(n+1, "default")
		}
		time.Sleep(time.Second)
		before := had.all()
		if len(before) > 26 {
			t.Errorf("%d attempts at an app that is down", len(before))
		}
		time.Sleep(time.Hour)
		probes := had.all()[len(before):]
		if n := len(probes); n < 715 || n > 721 {
			t.Errorf("%d probes in an hour", n)
		}
		for i, p := range probes[1:] {
			if p.n == probes[i].n {
				t.Fatalf("event %d probes twice in a row", p.n)
			}
		}
		if list := e.Inboxes(); len(list) != 1 || list[0].State == Closed || !strings.Contains(list[0].Error, "502") {
			t.Errorf("the inboxes are %+v", list)
		}
		down.Delete("down")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		delivered := 0
		for _, o := range s.outcomes(t) {
			if o.Disposition == store.Delivered {
				delivered++
			}
		}
		if delivered != events {
			t.Errorf("%d of %d events were accepted 6 s after the return", delivered, events)
		}
	})
}

// TestFewEventsDoNotOpenTheBreaker: events that an app always fails on, while there
// are less than three, do not keep later ones waiting.
func TestFewEventsDoNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, noNetwork, inbox(func(_ context.Context, d *store.Delivery, _ int) AppResponse {
			if d.N <= 2 {
				return AppResponse{Status: 503}
			}
			return AppResponse{Status: 200}
		}))
		s.accept(1, "default")
		s.accept(2, "default")
		time.Sleep(10 * time.Minute)
		s.accept(3, "default")
		synctest.Wait()
		got := s.outcomes(t)
		if last := got[len(got)-1]; last.Delivery.N != 3 || last.Disposition != store.Delivered {
			t.Errorf("the last outcome is %+v", last)
		}
	})
}

// TestRetryAfterOfAnApp: Retry-After lengthens the event's wait, and delays the probe
// of an app that is down by at most five minutes.
func TestRetryAfterOfAnApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var had calls
		engine(t, s, noNetwork, inbox(func(_ context.Context, d *store.Delivery, _ int) AppResponse {
			if d.Inbound.Scope == "other" {
				return AppResponse{Status: 429, RetryAfter: time.Minute}
			}
			had.add(d)
			return AppResponse{Status: 503, RetryAfter: time.Hour}
		}), func(c *Config) {
			other := c.Inboxes[0]
			other.Scope = "other"
			c.Inboxes = append(c.Inboxes, other)
		})
		s.accept(1000, "other")
		synctest.Wait()
		if o := s.outcomes(t)[0]; o.Due.Sub(o.Attempt.At) != time.Minute {
			t.Errorf("the event waits for %v", o.Due.Sub(o.Attempt.At))
		}
		for n := range int64(100) {
			s.accept(n+1, "default")
		}
		time.Sleep(time.Second)
		before := len(had.all())
		time.Sleep(time.Hour)
		if n := len(had.all()) - before; n < 11 || n > 13 {
			t.Errorf("%d probes in an hour", n)
		}
	})
}

// TestPausedTimeDoesNotCount: retry_for does not run while an inbox is paused, and
// not while no process runs.
func TestPausedTimeDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		start := func() *Engine {
			return engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
				return AppResponse{Status: 500}
			}, func(i *Inbox) { i.RetryFor, i.MaxDelay = time.Hour, time.Minute }))
		}
		e := start()
		s.accept(1, "default")
		began := time.Now()
		time.Sleep(30 * time.Minute)
		s.pausesMu.Lock()
		s.pauses = []store.Span{{Began: began.Add(10 * time.Minute), Ended: began.Add(30 * time.Minute)}}
		s.pausesMu.Unlock()
		if err := e.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) // no process
		start()
		time.Sleep(2 * time.Hour)
		got := s.outcomes(t)
		last := got[len(got)-1]
		// 60 minutes, 20 paused, and 120 without a process.
		if took := last.Attempt.At.Sub(began); last.Disposition != store.Exhausted || took < 199*time.Minute || took > 204*time.Minute {
			t.Errorf("ended as %v after %v", last.Disposition, took)
		}
	})
}

// TestEventsEndBehindAnAppThatIsDown: what waits untried behind an app that is down
// fails after retry_for, and says since when the app is down. What has probed fails
// as long after that at the latest.
func TestEventsEndBehindAnAppThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
			return AppResponse{Status: 502, Err: errRefused}
		}, func(i *Inbox) { i.RetryFor = 3 * time.Hour }))
		const events = 5000
		for n := range int64(events) {
			s.accept(n+1, "default")
		}
		count := func() (ended, untried int) {
			for _, o := range s.outcomes(t) {
				if o.Disposition == store.Exhausted {
					ended++
					if o.Attempt.Number == 1 && strings.HasPrefix(o.Attempt.Error, "app down since ") {
						untried++
					}
				}
			}
			return ended, untried
		}
		time.Sleep(3*time.Hour + time.Minute)
		probed := int(3*time.Hour/(5*time.Second)) + 30
		if _, untried := count(); untried < events-probed {
			t.Errorf("%d of %d ended untried", untried, events)
		}
		time.Sleep(3 * time.Hour)
		if ended, _ := count(); ended != events {
			t.Errorf("%d of %d ended", ended, events)
		}
	})
}

// TestScopeWithoutAnInbox: the events of a scope that the configuration has no inbox
// for wait, and go on with an engine that has it.
func TestScopeWithoutAnInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		accepted := func(context.Context, *store.Delivery, int) AppResponse { return AppResponse{Status: 200} }
		e := engine(t, s, noNetwork, inbox(accepted))
		s.accept(1, "other")
		time.Sleep(time.Hour)
		if got := s.outcomes(t); len(got) != 0 {
			t.Fatalf("outcomes %+v", got)
		}
		if list := e.Inboxes(); len(list) != 1 || list[0].Endpoint != "default" {
			t.Errorf("the inboxes are %+v", list)
		}
		engine(t, s, noNetwork, inbox(accepted, func(i *Inbox) { i.Scope = "other" }))
		e.Stop()
		synctest.Wait()
		if got := s.outcomes(t); len(got) != 1 || got[0].Disposition != store.Delivered {
			t.Errorf("outcomes %+v", got)
		}
	})
}

// TestAttemptOfAReplacedConfiguration: an attempt that ends without the app's response
// after its engine was stopped counts for nothing, and the next engine makes it again
// at once.
func TestAttemptOfAReplacedConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		cut := make(chan struct{})
		e := engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
			<-cut
			return AppResponse{Status: 502, Err: errors.New("context canceled")}
		}))
		s.accept(1, "default")
		synctest.Wait()
		engine(t, s, noNetwork, inbox(func(_ context.Context, _ *store.Delivery, attempt int) AppResponse {
			if attempt != 1 {
				t.Errorf("attempt %d", attempt)
			}
			return AppResponse{Status: 200}
		}))
		e.Stop()
		close(cut)
		synctest.Wait()
		if got := s.outcomes(t); len(got) != 1 || got[0].Disposition != store.Delivered {
			t.Errorf("outcomes %+v", got)
		}
	})
}

// TestPanicOfAnApp: a panic is a refusal of the event, and harms nothing else.
func TestPanicOfAnApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, noNetwork, inbox(func(_ context.Context, d *store.Delivery, attempt int) AppResponse {
			if d.N == 1 && attempt == 1 {
				panic("handler")
			}
			return AppResponse{Status: 200}
		}))
		s.accept(1, "default")
		s.accept(2, "default")
		time.Sleep(time.Minute)
		var got []string
		for _, o := range s.outcomes(t) {
			got = append(got, fmt.Sprint(o.Delivery.N, " ", o.Disposition == store.Delivered, " ", o.Refused))
		}
		slices.Sort(got)
		if want := []string{"1 false true", "1 true false", "2 true false"}; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

// TestInboxesDoNotWaitForWorkers: events reach their app while receivers that hang
// hold all workers, and the apps take no workers from the receivers.
func TestInboxesDoNotWaitForWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var had calls
		hung := make(chan struct{})
		engine(t, s, hang, func(c *Config) { c.Workers = 4; c.Timeout = Duration(10 * time.Second) }, inbox(func(_ context.Context, d *store.Delivery, _ int) AppResponse {
			had.add(d)
			<-hung
			return AppResponse{Status: 200}
		}))
		for i := range 500 {
			s.add(fmt.Sprint("d", i), hostURL(i))
		}
		time.Sleep(time.Second)
		for n := range int64(40) {
			s.accept(n+1, "default")
		}
		synctest.Wait()
		if n := len(had.all()); n != 16 {
			t.Errorf("%d events are with the app", n)
		}
		close(hung)
		synctest.Wait()
		if n := len(had.all()); n != 40 {
			t.Errorf("%d events reached the app", n)
		}
		time.Sleep(20 * time.Minute)
		tried := make(map[string]bool)
		for _, o := range s.outcomes(t) {
			tried[o.Delivery.ID] = true
		}
		if len(tried) != 540 {
			t.Errorf("%d deliveries were tried", len(tried))
		}
	})
}

// TestInboxSchedule: a refused event waits by its refusals, and no longer than it has
// waited already, so that neither attempts at an app that was down nor those before a
// replay lengthen its waits.
func TestInboxSchedule(t *testing.T) {
	now := time.Now()
	refusal, down := AppResponse{Status: 500}, AppResponse{Status: 503}
	for name, c := range map[string]struct {
		AppResponse
		attempt, refusals int
		waited, want      time.Duration
	}{
		"first":                            {refusal, 1, 0, 0, time.Second},
		"third":                            {refusal, 3, 2, 3 * time.Second, 4 * time.Second},
		"last":                             {refusal, 20, 19, time.Hour, 5 * time.Minute},
		"first after an outage":            {refusal, 20, 0, time.Hour, time.Second},
		"down":                             {down, 5, 0, 15 * time.Second, 16 * time.Second},
		"down, for an hour":                {down, 20, 0, time.Hour, 5 * time.Minute},
		"down, after a replay":             {down, 20, 0, 0, time.Second},
		"down, later after a replay":       {down, 22, 0, 3 * time.Second, 4 * time.Second},
		"by a clock that is behind":        {refusal, 1, 0, -time.Minute, time.Second},
		"Retry-After, after a replay":      {AppResponse{Status: 503, RetryAfter: time.Minute}, 20, 0, 0, time.Minute},
		"refused, and after a replay down": {down, 12, 3, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			i := Inbox{App: app(nil), RetryFor: 72 * time.Hour, MaxDelay: 5 * time.Minute, Concurrency: 1}
			if err := i.setDefaults(); err != nil {
				t.Fatal(err)
			}
			r := c.AppResponse.result()
			d := &store.Delivery{Attempts: c.attempt - 1, Refusals: c.refusals, WaitingSince: now.Add(-c.waited)}
			if disposition, due := i.follow(&r, d, c.attempt, false, now); disposition != store.Retry || due.Sub(now) != c.want {
				t.Errorf("%v after %v, want %v", disposition, due.Sub(now), c.want)
			}
		})
	}
}

// TestAcceptedIsAcceptedAfterAReload: a 2xx counts although the handlers ended with an
// error and the configuration was replaced.
func TestAcceptedIsAcceptedAfterAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		cut := make(chan struct{})
		e := engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
			<-cut
			return AppResponse{Status: 200, Err: errors.New("context canceled")}
		}))
		s.accept(1, "default")
		synctest.Wait()
		e.Stop()
		close(cut)
		synctest.Wait()
		if got := s.outcomes(t); len(got) != 1 || got[0].Disposition != store.Delivered {
			t.Errorf("outcomes %+v", got)
		}
	})
}

// TestAppThatIsDownOverARestart: an app that was down when a process ended is probed
// at once by the next one, and its events go on.
func TestAppThatIsDownOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		e := engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
			return AppResponse{Status: 503}
		}))
		for n := range int64(40) {
			s.accept(n+1, "default")
		}
		time.Sleep(7 * time.Second)
		if err := e.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.outages) != 1 {
			t.Fatalf("outages %v", s.outages)
		}
		before := len(s.outcomes(t))
		var passed atomic.Int64 // time passes between any two looks at the clock
		engine(t, s, noNetwork, inbox(func(context.Context, *store.Delivery, int) AppResponse {
			return AppResponse{Status: 200}
		}), func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Add(1000))) }
		})
		time.Sleep(6 * time.Second)
		if n := len(s.outcomes(t)) - before; n != 40 {
			t.Errorf("%d events were accepted", n)
		}
	})
}
