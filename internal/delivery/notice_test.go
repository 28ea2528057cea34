package delivery

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// chat is a receiver of notices.
type chat struct {
	mu     sync.Mutex
	got    []string
	status int
	down   bool
	ends   []NoticeEnd
}

func (c *chat) network(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		c.got = append(c.got, "down")
		return nil, errRefused
	}
	if err := connect(r); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	secrets := []signature.Secret{}
	if s, err := signature.ParseSecret(testSecret); err == nil {
		secrets = append(secrets, s)
	}
	signed := make(http.Header)
	signature.Standard.Sign(signed, secrets, r.Header.Get("Webhook-Id"), time.Now(), body)
	if r.Header.Get("Webhook-Signature") != signed.Get("Webhook-Signature") || r.Header.Get("X-Replicate-Event") != "" {
		c.got = append(c.got, fmt.Sprint("headers ", r.Header))
	}
	c.got = append(c.got, fmt.Sprintf("%s #%s %s", r.Header.Get("Webhook-Id"), r.Header.Get("X-Replicate-Attempt"), body))
	return status(c.status), nil
}

func (c *chat) done(end NoticeEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = append(c.ends, end)
}

func (c *chat) set(status int, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.down = status, down
}

func (c *chat) want(t *testing.T, ends []NoticeEnd, got ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.got, got) || !slices.Equal(c.ends, ends) {
		t.Fatalf("the receiver got %q, and the ends are %v, want %q and %v", c.got, c.ends, got, ends)
	}
}

// TestNoticesAreRetriedAsDeliveriesAre: on their schedule, under one ID, and given up
// after it. Nothing of them is in the log.
func TestNoticesAreRetriedAsDeliveriesAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newMemStore(), &chat{status: 200}
		e := engine(t, s, c.network, func(conf *Config) { conf.Retry.MaxAttempts = 2 })
		if !e.Notify("a", hostURL(1), []byte("one"), c.done) {
			t.Fatal("not taken")
		}
		time.Sleep(time.Second)
		c.want(t, []NoticeEnd{NoticeSent}, "a #1 one")
		c.set(500, false)
		e.Notify("b", hostURL(1), []byte("two"), c.done)
		time.Sleep(900 * time.Millisecond)
		c.want(t, []NoticeEnd{NoticeSent}, "a #1 one", "b #1 two")
		time.Sleep(time.Hour)
		c.want(t, []NoticeEnd{NoticeSent, NoticeFailed}, "a #1 one", "b #1 two", "b #2 two", "b #3 two")
		if log := s.outcomes(t); len(log) != 0 {
			t.Errorf("the log has %v", log)
		}
	})
}

// TestNoticesKeepToTheBreaker: behind an open breaker of their receiver they wait, one
// goes first, and the others follow once it is received. They count for it, too.
func TestNoticesKeepToTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newMemStore(), &chat{status: 200, down: true}
		var reports []string
		e := engine(t, s, c.network, func(conf *Config) {
			conf.Endpoint.Breaker = Breaker{Failures: 2, Cooldown: Duration(time.Minute)}
			conf.OnEndpointOpen = func(r EndpointReport) { reports = append(reports, "open "+r.Endpoint) }
			conf.OnEndpointClosed = func(r EndpointReport) { reports = append(reports, "closed "+r.Endpoint) }
		})
		e.Notify("a", hostURL(1), []byte("one"), c.done)
		time.Sleep(30 * time.Second)
		c.want(t, nil, "down", "down") // and the breaker is open
		for i := range 20 {
			e.Notify(fmt.Sprint(i), hostURL(1), []byte("more"), c.done)
		}
		time.Sleep(20 * time.Second)
		c.want(t, nil, "down", "down")
		c.set(200, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(c.got) != 23 || len(c.ends) != 21 || slices.Contains(c.ends, NoticeFailed) {
			t.Errorf("got %q, ends %v", c.got, c.ends)
		}
		if !slices.Equal(reports, []string{"open https://host1.example:443", "closed https://host1.example:443"}) {
			t.Errorf("reported %q", reports)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if p := e.admission.endpoints["https://host1.example:443"]; p.inFlight != 0 || e.admission.workers.busy.Len() != 0 || e.admission.workers.overflow != 0 ||
			e.admission.backlog.committing != 0 || e.admission.backlog.payloads != 0 {
			t.Errorf("attempts of notices are still counted: %+v, %+v", p, e.admission.backlog)
		}
	})
}

// TestNoticesOfAStoppedEngineAreGivenBack: those that wait for a retry are for the next
// engine. One that was never tried is tried.
func TestNoticesOfAStoppedEngineAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newMemStore(), &chat{status: 500}
		e := engine(t, s, c.network)
		e.Notify("a", hostURL(1), []byte("one"), c.done)
		synctest.Wait()
		c.set(200, false)
		e.Notify("b", hostURL(2), []byte("two"), c.done)
		e.Stop()
		synctest.Wait()
		slices.Sort(c.ends) // the order of the two is open
		c.want(t, []NoticeEnd{NoticeSent, NoticeStopped}, "a #1 one", "b #1 two")
		if e.Notify("c", hostURL(1), nil, c.done) {
			t.Error("a stopped engine takes a notice")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
}
