package replicatewebhook_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestHeadersToTheApp: three, with what was verified.
func TestHeadersToTheApp(t *testing.T) {
	e := newEdge(t, "")
	at := time.Now().UTC().Format(time.RFC3339)
	for _, c := range []struct{ id, event, wantID, wantEvent string }{
		{"p1", "prediction.completed", "p1", "prediction.completed"},
		{"p 2", "custom event", "p%202", "custom%20event"},
		{"a\nb", "x", "a%0Ab", "x"},
		{"100%", "%", "100%25", "%25"},
		{"日本", "é", "%E6%97%A5%E6%9C%AC", "%C3%A9"},
		{"\x00\x7f", "\t", "%00%7F", "%09"},
	} {
		body := fmt.Sprintf(`{"event":%s,"prediction":{"id":%s,"status":"succeeded"},"timestamp":%q}`, quote(c.event), quote(c.id), at)
		e.accepted(replicate(whsec, body))
		h := e.app.Last().Header
		if h.Get("X-Replicate-Prediction-Id") != c.wantID || h.Get("X-Replicate-Event") != c.wantEvent || h.Get("X-Replicate-Verified") != "replicate" {
			t.Errorf("%q, %q: the app got %v", c.id, c.event, h)
		}
	}
	e.accepted(standard(whsec, "m1", bareBody("p9", "queued")))
	if h := e.app.Last().Header; len(h["X-Replicate-Event"]) > 0 {
		t.Errorf("no event, and the header is %q", h["X-Replicate-Event"])
	}
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < ' ' || r == '"' || r == '\\' {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// TestHeadersFromOutsideAreRemoved in every spelling, also where Caddy itself
// is told to let underscores and dots pass.
func TestHeadersFromOutsideAreRemoved(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", whsec)
	names := []string{"X-Replicate-Verified", "X-Replicate-Event", "X-Replicate-Prediction-Id", "Webhook-Signature"}
	for _, c := range []struct{ separator, option string }{
		{"-", ""},
		{"_", "expected_underscore_headers"},
		{".", "expected_dot_headers"},
		// Caddy lets the other marks pass, and some servers make the same
		// variable of all of them.
		{"!", ""},
		{"~", ""},
	} {
		t.Run("separator "+c.separator, func(t *testing.T) {
			var spelled []string
			for _, name := range names {
				if c.separator == "-" && name == "Webhook-Signature" {
					continue // a header of the sender's
				}
				spelled = append(spelled, strings.ReplaceAll(name, "-", c.separator), strings.Replace(name, "-", c.separator, 1))
			}
			app := caddyrun.NewApp(t)
			text := site(withSecret("scheme replicate"), app.Addr())
			if c.option != "" {
				text = strings.Replace(text, "{$GLOBALS}",
					"{$GLOBALS}\nservers {\n"+c.option+" other"+c.separator+"name "+strings.Join(spelled, " ")+"\n}", 1)
			}
			e := &edge{Server: caddyrun.Start(t, text), t: t, app: app}
			w := completed("p1")
			more := []string{fmt.Sprintf("Content-Length: %d", len(w.body)), "Other" + c.separator + "Name: stays"}
			for _, name := range spelled {
				more = append(more, name+": forged", strings.ToLower(name)+": forged", strings.ToUpper(name)+": forged")
			}
			conn := dial(t, e.Addr("PORT1"))
			conn.head(w, more...)
			conn.write(w.body)
			if a := conn.answer(); a.status != http.StatusOK {
				t.Fatalf("got %v", a)
			}
			h := e.app.Last().Header
			for name, values := range h {
				if slices.Contains(values, "forged") {
					t.Errorf("the app got %s: %q", name, values)
				}
			}
			if got := h["Other"+c.separator+"name"]; c.separator != "-" && len(got) != 1 {
				t.Errorf("the app got %v: this route would not let an alias through anyway", h)
			}
			if got := h["X-Replicate-Verified"]; len(got) != 1 || got[0] != "replicate" {
				t.Errorf("X-Replicate-Verified is %q", got)
			}
		})
	}
}

// TestNothingUnsignedReachesTheApp with the documented way of writing a route:
// frameworks take all of these paths for the route, Caddy's matcher does not.
func TestNothingUnsignedReachesTheApp(t *testing.T) {
	e := newEdge(t, "")
	w := completed("p1")
	unsigned := w.without("X-Replicate-Signature")
	for _, path := range []string{
		"/webhooks/replicate", "/webhooks/replicate/", "/webhooks/replicate//", "//webhooks/replicate", "/webhooks//replicate",
		"/webhooks/./replicate", "/./webhooks/replicate", "/x/../webhooks/replicate", "/webhooks/replicate/.", "/webhooks/replicate/x/..",
		"/webhooks/replicate;x=1", "/webhooks;x/replicate", "/webhooks/replicate%3bx", "/webhooks%2freplicate", "/webhooks%2Freplicate",
		"/%77ebhooks/replicate", "/webhooks/replicate%2f", "/webhooks/replicate%00", "/webhooks/replicate%20", "/webhooks/replicate.json",
		"/WEBHOOKS/REPLICATE", "/Webhooks/Replicate", "/webhooks/replicate?x=1", "/webhooks/replicate?", `/webhooks\replicate`,
		"/webhooks/replicate/../replicate", "/webhooks%252freplicate", "/webhooks/%2e/replicate", "/webhooks/replicat%65", "/",
	} {
		for _, method := range []string{"POST", "GET", "PUT"} {
			c := dial(t, e.Addr("PORT1"))
			c.write(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				method, path, e.Addr("PORT1"), len(unsigned.body), unsigned.body))
			if a := c.answer(); a.status != 401 && a.status != 404 && a.status != 405 && a.status != 400 {
				t.Errorf("%s %s: got %v", method, path, a)
			}
			_ = c.Close()
		}
	}
	if seen := e.app.Seen(); len(seen) > 0 {
		t.Fatalf("the app got %s %s", seen[0].Method, seen[0].RequestURI)
	}
	e.accepted(w)
}
