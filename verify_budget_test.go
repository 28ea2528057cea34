package replicatewebhook_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// newBudgetedEdge has a body_budget of 8 KiB, so that one client may hold 1 KiB,
// and believes X-Forwarded-For.
func newBudgetedEdge(t *testing.T) *edge {
	t.Helper()
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	text := strings.Replace(site(withSecret("max_body 1KiB"), app.Addr()), "{$GLOBALS}",
		"{$GLOBALS}\nservers {\ntrusted_proxies static 127.0.0.1/32\n}\nreplicate_webhook {\nbody_budget 8KiB\n}", 1)
	return &edge{Server: caddyrun.Start(t, text), t: t, app: app}
}

// sized is a webhook of one client with a body of so many bytes.
func sized(id, client string, size int) webhook {
	body := guideBody(id, "prediction.completed")
	body = strings.Replace(body, `"input":{`, `"input":{"pad":"`+strings.Repeat("x", size-len(body)-len(`"pad":"",`))+`",`, 1)
	return replicate(whsec, body).with("X-Forwarded-For", client)
}

// TestBodyBudget: one client may hold an eighth, all together the whole, and
// what a request held is given back when it is done.
func TestBodyBudget(t *testing.T) {
	e := newBudgetedEdge(t)
	const client = "192.0.2.1"
	e.accepted(sized("p1", client, 1024))
	proceed := make(chan struct{})
	e.app.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-proceed })
	count := e.app.Count()
	var waiting []<-chan answer
	for i := range 8 {
		waiting = append(waiting, e.start(sized(fmt.Sprint("q", i), fmt.Sprint("192.0.2.", i+1), 1024)))
		e.app.Wait(count + i + 1)
		if i > 0 {
			continue
		}
		for range 3 { // again and again: nothing stays behind
			a := e.refused(sized("p2", client, 600), http.StatusServiceUnavailable)
			if a.header.Get("Retry-After") == "" {
				t.Fatalf("got %v, want Retry-After", a)
			}
		}
	}
	e.refused(sized("p3", "198.51.100.1", 600), http.StatusServiceUnavailable)
	e.refused(sized("p4", client, 600), http.StatusServiceUnavailable)
	// What is refused without its body costs nothing.
	e.refused(sized("p5", client, 600).without("X-Replicate-Signature"), http.StatusUnauthorized)
	close(proceed)
	for _, got := range waiting {
		if a := <-got; a.status != http.StatusOK {
			t.Errorf("got %v", a)
		}
	}
	e.accepted(sized("p3", "198.51.100.1", 600))
	e.accepted(sized("p4", client, 1000))
}
