package replicatewebhook_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

func init() {
	caddy.RegisterModule(senderWatch{})
	httpcaddyfile.RegisterHandlerDirective("watch_sender", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return senderWatch{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("watch_sender", httpcaddyfile.Before, "header")
}

// senderWatch is a handler in front of the edge that hands out each request's
// context, which ends when the sender leaves.
type senderWatch struct{}

var senders = make(chan context.Context, 16)

func (senderWatch) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.watch_sender", New: func() caddy.Module { return new(senderWatch) }}
}

func (senderWatch) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	senders <- r.Context()
	return next.ServeHTTP(w, r)
}

// TestCommitOutlivesTheSender: an event whose sender is known to have left
// before the app accepted it is committed all the same, and counted as accepted.
func TestCommitOutlivesTheSender(t *testing.T) {
	e := newEdge(t, "")
	e.Reload(withMetrics(site(withSecret(""), e.app.Addr(), "watch_sender")))
	e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		<-(<-senders).Done()
		w.WriteHeader(http.StatusOK)
	})
	const accepted = `requests_total{outcome="accepted"}`
	before := e.metric(accepted)
	for i := range 10 {
		w := completed(fmt.Sprint("p", i))
		c := dial(t, e.Addr("PORT1"))
		c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
		c.write(w.body)
		e.app.Wait(i + 1)
		_ = c.Close()
		e.isDuplicate(w)
		<-senders // of the duplicate
	}
	// A request is counted after its response.
	for deadline := time.Now().Add(caddyrun.Patience); e.metric(accepted)-before < 10 && time.Now().Before(deadline); {
	}
	if got := e.metric(accepted) - before; got != 10 {
		t.Errorf("%v of 10 events were accepted", got)
	}
}

// TestRequestOutlivesItsConfiguration: a request that is under way when a
// configuration without the edge replaces its own still has its store, and
// commits.
func TestRequestOutlivesItsConfiguration(t *testing.T) {
	e := newEdge(t, "")
	proceed := make(chan struct{})
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		<-proceed
		w.WriteHeader(http.StatusOK)
	})
	w := completed("p1")
	answered := e.start(w)
	e.app.Wait(1)
	e.Reload("{\n\t{$GLOBALS}\n}\nhttp://127.0.0.1:{$PORT1} {\n\trespond 404\n}\n")
	close(proceed)
	if a := <-answered; a.status != http.StatusOK || a.duplicate() {
		t.Fatalf("got %v, want the app's own answer", a)
	}
	e.reload("")
	e.isDuplicate(w)
}
