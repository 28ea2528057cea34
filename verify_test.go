package replicatewebhook_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestAcceptedGetsTheAppsOwnAnswer: status, headers and body are the app's.
func TestAcceptedGetsTheAppsOwnAnswer(t *testing.T) {
	e := newEdge(t, "")
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("X-App", "yes")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, "taken")
	})
	w := completed("p1")
	a := e.send(w)
	if a.status != http.StatusAccepted || a.header.Get("X-App") != "yes" || a.body != "taken" || a.duplicate() {
		t.Fatalf("got %v, want the app's answer", a)
	}
	if got := string(e.app.Last().Got); got != w.body {
		t.Fatalf("the app got body %q, want %q", got, w.body)
	}
}

// TestOtherMethodsAre405 covers the first row of the checks: it comes before
// the signature is looked for.
func TestOtherMethodsAre405(t *testing.T) {
	e := newEdge(t, "")
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"} {
		r, _ := http.NewRequest(method, e.URL("PORT1", route), nil)
		resp, err := e.Client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s: got %d with Allow %q", method, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
	if n := e.app.Count(); n != 0 {
		t.Fatalf("the app got %d requests", n)
	}
}

// unauthorised are webhooks that must all look the same to their sender.
func unauthorised() map[string]webhook {
	body := guideBody("p1", "prediction.completed")
	good, std := replicate(whsec, body), standard(whsec, "msg_1", body)
	signature := good.header.Get("X-Replicate-Signature")
	set := func(w webhook, name, value string) webhook { return w.without(name).with(name, value) }
	both := both(whsec, "msg_1", body)
	late, early := time.Now().Add(-6*time.Minute), time.Now().Add(6*time.Minute)
	stale := guideBodyAt("p1", "prediction.completed", late)
	return map[string]webhook{
		"no signature":                {body, http.Header{}},
		"empty signature":             set(good, "X-Replicate-Signature", ""),
		"short signature":             set(good, "X-Replicate-Signature", signature[:62]),
		"upper-case signature":        set(good, "X-Replicate-Signature", strings.ToUpper(signature)),
		"signature of other hash":     set(good, "X-Replicate-Signature", "sha1="+signature),
		"duplicated signature":        good.with("X-Replicate-Signature", signature),
		"oversized signature":         set(good, "X-Replicate-Signature", strings.Repeat("0", 4096)),
		"signature of other body":     replicate(whsec, body+" ").withBody(body),
		"signature of other secret":   replicate(older, body),
		"body changed":                good.withBody(strings.Replace(body, "p1", "p2", 1)),
		"standard without id":         std.without("Webhook-Id"),
		"standard without timestamp":  std.without("Webhook-Timestamp"),
		"standard without signature":  std.without("Webhook-Signature"),
		"standard timestamp no time":  set(std, "Webhook-Timestamp", "now"),
		"standard other id":           set(std, "Webhook-Id", "msg_2"),
		"standard version unknown":    set(std, "Webhook-Signature", strings.Replace(std.header.Get("Webhook-Signature"), "v1,", "v9,", 1)),
		"standard stale":              standardAt(whsec, "msg_1", body, late),
		"standard from the future":    standardAt(whsec, "msg_1", body, early),
		"both, one wrong":             set(both, "X-Replicate-Signature", hexHMAC(older, body)),
		"both, the other wrong":       set(both, "Webhook-Id", "msg_2"),
		"stale":                       replicate(whsec, stale),
		"from the future":             replicate(whsec, guideBodyAt("p1", "prediction.completed", early)),
		"no signed time":              replicate(whsec, bareBody("p1", "succeeded")),
		"signed time not RFC 3339":    replicate(whsec, `{"id":"p1","status":"succeeded","timestamp":"Tue, 24 Nov 2026"}`),
		"connection names verified":   good.with("Connection", "X-Replicate-Verified"),
		"connection names signature":  good.with("Connection", "keep-alive, x-replicate-SIGNATURE"),
		"connection names an alias":   good.with("Connection", "x_replicate.event"),
		"connection names length":     good.with("Connection", "content-length"),
		"wrong and not json":          replicate(older, "{"),
		"stale, signed and not JSON":  standardAt(whsec, "msg_1", "{", late),
		"stale with a repeated key":   replicate(whsec, strings.Replace(stale, "{", `{"a":1,"a":2,`, 1)),
		"unsigned with a bad charset": {"\xff", http.Header{}},
	}
}

func (w webhook) withBody(body string) webhook { return webhook{body, w.header} }

// TestAll401sLookTheSame: status, headers and body tell a forger nothing. Only
// the connection differs: it ends where the body was not read.
func TestAll401sLookTheSame(t *testing.T) {
	e := newEdge(t, "")
	var first, firstName string
	unread := []string{"no signature", "empty signature", "short signature", "upper-case signature", "signature of other hash",
		"duplicated signature", "oversized signature", "standard without id", "standard without timestamp", "standard without signature",
		"standard timestamp no time", "standard version unknown", "unsigned with a bad charset"}
	cases := unauthorised()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		w := cases[name]
		t.Run(name, func(t *testing.T) {
			c := dial(t, e.Addr("PORT1"))
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body)
			a := c.answer()
			ends := slices.Contains(unread, name) || strings.HasPrefix(name, "connection names ")
			if a.status != http.StatusUnauthorized || (a.header.Get("Connection") == "close") != ends {
				t.Fatalf("got %v, want 401, and Connection: close is %v", a, ends)
			}
			if ends {
				c.closed()
			}
			a.header.Del("Date")
			a.header.Del("Connection")
			if first == "" {
				first, firstName = a.String(), name
			}
			if a.String() != first {
				t.Errorf("got %v, but %q got %v", a, firstName, first)
			}
		})
	}
	if n := e.app.Count(); n != 0 {
		t.Fatalf("the app got %d requests", n)
	}
}

// TestUnsignedBodyIsNotRead: the answer comes while the body never does, and
// nobody is told to send it.
func TestUnsignedBodyIsNotRead(t *testing.T) {
	// What a refused sender may still send is bounded, too.
	e := newEdge(t, "max_body 1MiB\nread_timeout 50ms")
	good := completed("p1")
	for _, c := range []struct {
		name   string
		hook   webhook
		more   []string
		status int
	}{
		{"no signature", good.without("X-Replicate-Signature"), []string{"Content-Length: 1000"}, 401},
		{"no signature, chunked", good.without("X-Replicate-Signature"), []string{"Transfer-Encoding: chunked"}, 401},
		{"malformed", good.without("X-Replicate-Signature").with("X-Replicate-Signature", "xyz"), []string{"Content-Length: 1000"}, 401},
		{"connection", good, []string{"Content-Length: 1000", "Connection: X-Replicate-Verified"}, 401},
		{"encoded", good, []string{"Content-Length: 1000", "Content-Encoding: gzip"}, 415},
		{"too large", good, []string{"Content-Length: 1048577"}, 413},
	} {
		for _, expect := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s expect=%v", c.name, expect), func(t *testing.T) {
				conn := dial(t, e.Addr("PORT1"))
				if expect {
					c.more = append(slices.Clip(c.more), "Expect: 100-continue")
				}
				conn.head(c.hook, c.more...)
				a := conn.answer() // a 100 would come first
				if a.status != c.status || a.header.Get("Connection") != "close" {
					t.Fatalf("got %v, want %d with Connection: close", a, c.status)
				}
				conn.closed()
			})
		}
	}
	conn := dial(t, e.Addr("PORT1"))
	conn.head(good, fmt.Sprintf("Content-Length: %d", len(good.body)), "Expect: 100-continue")
	if a := conn.answer(); a.status != http.StatusContinue {
		t.Fatalf("a well-formed webhook got %v, want 100", a)
	}
	conn.write(good.body)
	if a := conn.answer(); a.status != http.StatusOK {
		t.Fatalf("got %v, want 200", a)
	}
	if got := e.app.Last().Header.Get("Expect"); got != "" {
		t.Fatalf("the app was told to expect %q", got)
	}
}

// TestContentEncodings: what is compressed can't be verified byte by byte.
func TestContentEncodings(t *testing.T) {
	e := newEdge(t, "")
	for _, encoding := range []string{"gzip", "br", "identity, gzip", "GZIP", "x"} {
		if a := e.refused(completed("p1").with("Content-Encoding", encoding), http.StatusUnsupportedMediaType); a.duplicate() {
			t.Errorf("%s: got %v", encoding, a)
		}
	}
	e.refused(completed("p1").with("Content-Encoding", "identity").with("Content-Encoding", "gzip"), http.StatusUnsupportedMediaType)
	e.accepted(completed("p1").with("Content-Encoding", "identity"))
	e.accepted(completed("p2").with("Content-Encoding", "Identity"))
}

// TestBodiesOverMaxBodyAre413, whether they say so or not.
func TestBodiesOverMaxBodyAre413(t *testing.T) {
	e := newEdge(t, "max_body 1KiB")
	pad := func(size int) webhook {
		body := guideBody("p1", "prediction.completed")
		return replicate(whsec, body[:len(body)-1]+strings.Repeat(" ", size-len(body))+"}")
	}
	e.refused(pad(1025), http.StatusRequestEntityTooLarge)
	c := dial(t, e.Addr("PORT1"))
	w := pad(1025)
	c.head(w, "Transfer-Encoding: chunked")
	c.write(fmt.Sprintf("%x\r\n%s\r\n", len(w.body), w.body))
	if a := c.answer(); a.status != http.StatusRequestEntityTooLarge || a.header.Get("Connection") != "close" {
		t.Fatalf("chunked: got %v, want 413", a)
	}
	e.accepted(pad(1024))
}

// TestSlowBodyIs408: the whole body counts, not the time between two bytes.
func TestSlowBodyIs408(t *testing.T) {
	e := newEdge(t, "read_timeout 150ms")
	w := completed("p1")
	c := dial(t, e.Addr("PORT1"))
	c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
	c.write(w.body[:10])
	if a := c.answer(); a.status != http.StatusRequestTimeout || a.header.Get("Connection") != "close" {
		t.Fatalf("got %v, want 408", a)
	}
	c.closed()

	// Once the body is there the app may take its time.
	release := make(chan struct{})
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) { <-release })
	got := e.start(w)
	e.app.Wait(1)
	select {
	case a := <-got:
		t.Fatalf("got %v while the app was at work", a)
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	if a := <-got; a.status != http.StatusOK {
		t.Fatalf("got %v, want 200", a)
	}
}

// TestSignedButUnfitBodiesAre400: they are genuine, and still not passed on.
func TestSignedButUnfitBodiesAre400(t *testing.T) {
	e := newEdge(t, "")
	fields := fmt.Sprintf(`"id":"p1","status":"succeeded","timestamp":%q`, time.Now().UTC().Format(time.RFC3339))
	nested := func(depth int) string {
		return `{` + fields + `,"x":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
	}
	for name, body := range map[string]string{
		"invalid UTF-8":              "{" + fields + ",\"x\":\"\xff\"}",
		"overlong UTF-8":             "{" + fields + ",\"x\":\"\xc0\xaf\"}",
		"encoded surrogate":          "{" + fields + ",\"x\":\"\xed\xa0\x80\"}",
		"byte order mark":            "\ufeff{" + fields + "}",
		"empty":                      "",
		"cut off":                    "{" + fields,
		"two values":                 "{" + fields + "}{}",
		"comment":                    "{" + fields + "/**/}",
		"number with leading zero":   "{" + fields + `,"x":01}`,
		"repeated key":               "{" + fields + `,"id":"p2"}`,
		"repeated escaped key":       "{" + fields + `,"\u0069d":"p2"}`,
		"repeated key deep below":    "{" + fields + `,"x":[{"y":{"\u0061":1,"a":1}}]}`,
		"key that folds to id":       "{" + fields + `,"ID":"p2"}`,
		"key that folds to status":   "{" + fields + `,"\u017ftatus":"failed"}`,
		"key that folds to event":    "{" + fields + `,"Event":"prediction.failed"}`,
		"id below that folds":        strings.Replace("{"+fields+"}", `"id":"p1"`, `"prediction":{"id":"p1","Id":"p2"}`, 1),
		"too deep":                   nested(513),
		"far too deep":               nested(100_000),
		"id of another type":         strings.Replace("{"+fields+"}", `"p1"`, `17`, 1),
		"empty id":                   strings.Replace("{"+fields+"}", `"p1"`, `""`, 1),
		"no id":                      strings.Replace("{"+fields+"}", `"id"`, `"ID"`, 1),
		"id of an outer prediction":  strings.Replace("{"+fields+"}", `"id":"p1"`, `"id":"p1","prediction":{}`, 1),
		"an array":                   `["p1"]`,
		"a string":                   `"p1"`,
		"nothing but JSON's nothing": "null",
	} {
		// The standard scheme signs the time outside the body, so that all
		// of these are genuine and fresh.
		t.Run(name, func(t *testing.T) {
			e.t = t
			e.refused(standard(whsec, "msg_1", body), http.StatusBadRequest)
		})
	}
	e.t = t
	e.accepted(standard(whsec, "msg_1", nested(512)))
}

// TestNoSignedInputIsA5xx: whatever is signed, the edge has an answer for it.
func TestNoSignedInputIsA5xx(t *testing.T) {
	e := newEdge(t, "")
	at := time.Now().UTC().Format(time.RFC3339)
	for i, body := range []string{
		fmt.Sprintf(`{"id":"a\nb\u0000\u007f","status":"succeeded","timestamp":%q}`, at),
		fmt.Sprintf(`{"id":"日本 %%41","status":"\r\nX-Injected: 1","timestamp":%q}`, at),
		fmt.Sprintf(`{"id":"\ud800","status":"succeeded","timestamp":%q}`, at),
		fmt.Sprintf(`{"id":%q,"status":"x","timestamp":%q}`, strings.Repeat("a", 5000), at),
		fmt.Sprintf(`{"event":"a\r\nX-Injected: 1","prediction":{"id":"p"},"timestamp":%q}`, at),
		fmt.Sprintf(`{"event":{},"prediction":{"id":"q"},"timestamp":%q}`, at),
		fmt.Sprintf(`{"event":"e","prediction":{"id":"r","status":[1e999,-0]},"timestamp":%q}`, at),
		fmt.Sprintf(`{"__proto__":{"id":"x"},"id":"s","timestamp":%q}`, at),
	} {
		if a := e.send(replicate(whsec, body)); a.status != http.StatusOK {
			t.Errorf("body %d: got %v", i, a)
		}
		if got := e.app.Last().Header.Get("X-Injected"); got != "" {
			t.Errorf("body %d injected a header", i)
		}
	}
}

// TestEventsFilter: what is not asked for is answered and not passed on.
func TestEventsFilter(t *testing.T) {
	e := newEdge(t, "events completed prediction.failed")
	started := replicate(whsec, guideBody("p1", "prediction.started"))
	for range 2 {
		a := e.refused(started, http.StatusOK)
		if a.duplicate() || a.body != "" {
			t.Fatalf("got %v, want an empty 200", a)
		}
	}
	e.refused(standard(whsec, "m1", bareBody("p1", "processing")), http.StatusOK)
	e.refused(standard(whsec, "m2", bareBody("p1", "new status")), http.StatusOK)
	e.accepted(completed("p1"))
	e.accepted(replicate(whsec, guideBody("p1", "prediction.failed")))
	// Forgeries are not told what is filtered.
	e.refused(replicate(older, started.body), http.StatusUnauthorized)
}

// TestErrorsGoToHandleErrors: answers of the edge can be given another body.
func TestErrorsGoToHandleErrors(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	text := strings.Replace(site(withSecret(""), app.Addr()), "\tlog\n",
		"\thandle_errors {\n\t\trespond \"our own {err.status_code}\"\n\t}\n", 1)
	e := &edge{Server: caddyrun.Start(t, text), t: t, app: app}
	if a := e.refused(completed("p1").without("X-Replicate-Signature"), 401); a.body != "our own 401" {
		t.Fatalf("got %v", a)
	}
}
