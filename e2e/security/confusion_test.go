package security_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestDowngradeBetweenSchemes: no part of one scheme lends weight to the other,
// and what is left of a scheme is judged as that scheme.
func TestDowngradeBetweenSchemes(t *testing.T) {
	e := newEdge(t, "")
	now := time.Now()
	body := payload("p1", now)
	w := both(t, whsec, "msg_1", body, now)
	forged := payload("p2", now)
	digest := key(t, whsec).SignStandard("msg_1", w.header.Get("Webhook-Timestamp"), []byte(body))
	for name, v := range map[string]hook{
		"one signature is good, the other is for another body": w.withBody(forged).with("X-Replicate-Signature", replicate(t, whsec, forged).header.Get("X-Replicate-Signature")).
			with("Webhook-Signature", digest),
		"an old standard signature beside a good one":        standard(t, whsec, "msg_1", body, now.Add(-time.Hour)).with("X-Replicate-Signature", w.header.Get("X-Replicate-Signature")),
		"an empty standard signature beside a good one":      w.with("Webhook-Signature", ""),
		"the standard id alone beside a good signature":      w.with("Webhook-Timestamp").with("Webhook-Signature"),
		"the standard time alone beside a good signature":    w.with("Webhook-Id").with("Webhook-Signature"),
		"only versions that are not known beside a good one": w.with("Webhook-Signature", strings.Replace(digest, "v1,", "v1a,", 1)),
		"each header holds the other scheme's signature":     w.with("X-Replicate-Signature", digest).with("Webhook-Signature", w.header.Get("X-Replicate-Signature")),
		"the digest of the other key in hex":                 replicate(t, whsec, "msg_1."+w.header.Get("Webhook-Timestamp")+"."+body).withBody(body),
		"a standard signature that is empty, and stale body": standard(t, whsec, "msg_1", payload("p1", now.Add(-time.Hour)), now).with("Webhook-Signature", "").
			with("X-Replicate-Signature", replicate(t, whsec, payload("p1", now.Add(-time.Hour))).header.Get("X-Replicate-Signature")),
		"a stale body without its standard signature": both(t, whsec, "msg_1", payload("p1", now.Add(-time.Hour)), now).onlyReplicate(),
	} {
		if a := e.send(v); a.status != http.StatusUnauthorized {
			t.Errorf("%s: got %v, want 401", name, a)
		}
	}
	if n := e.app.Count(); n > 0 {
		t.Fatalf("the app got %d requests", n)
	}
	e.accepted(w)
}

// TestHeaderAliases: no other spelling of a signature header counts as one, and
// none of a header that the edge vouches by reaches the app.
func TestHeaderAliases(t *testing.T) {
	e := newEdge(t, "")
	w := both(t, whsec, "msg_1", payload("p1", time.Now()), time.Now())
	for _, mark := range []string{"_", ".", "!", "#", "$", "%", "&", "'", "*", "+", "^", "`", "|", "~"} {
		alias := hook{w.body, make(http.Header)}
		for name, values := range w.header {
			alias.header[strings.ReplaceAll(name, "-", mark)] = values
		}
		e.refused(alias, http.StatusUnauthorized)

		w := replicate(t, whsec, payload("alias"+fmt.Sprintf("%x", mark), time.Now()))
		for _, name := range signature.ProtectedHeaders() {
			w.header[strings.ReplaceAll(name, "-", mark)] = []string{"forged"}
			w.header[strings.ToLower(strings.ReplaceAll(name, "-", mark))] = []string{"forged"}
		}
		e.accepted(w)
		for name, values := range e.app.Last().Header {
			if slices.Contains(values, "forged") {
				t.Errorf("with %q the app got %s", mark, name)
			}
		}
	}
}

// TestConnectionListedHeaders: Connection can't make the proxy drop what the
// app relies on, whatever the spelling, nor in several headers.
func TestConnectionListedHeaders(t *testing.T) {
	e := newEdge(t, "")
	w := both(t, whsec, "msg_1", payload("p1", time.Now()), time.Now())
	for _, name := range signature.ProtectedHeaders() {
		for _, value := range []string{
			name, strings.ToUpper(name), "keep-alive, " + name, name + ",close", "\t" + name + "\t", ",," + name,
			strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."),
		} {
			e.refused(w.with("Connection", value), http.StatusUnauthorized)
		}
		e.refused(w.with("Connection", "close", name), http.StatusUnauthorized)
	}
	e.accepted(w.with("Connection", "keep-alive, x-other"))
}

// TestTrailers: what comes after the body is no header, for us and for the app.
func TestTrailers(t *testing.T) {
	e := newEdge(t, "")
	w := replicate(t, whsec, payload("p1", time.Now()))
	digest := w.header.Get("X-Replicate-Signature")
	chunked := func(w hook, trailers ...string) answer {
		t.Helper()
		var b strings.Builder
		fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n", route, e.Addr("PORT1"))
		for name, values := range w.header {
			fmt.Fprintf(&b, "%s: %s\r\n", name, values[0])
		}
		for _, line := range trailers {
			fmt.Fprintf(&b, "Trailer: %s\r\n", line[:strings.IndexByte(line, ':')])
		}
		fmt.Fprintf(&b, "\r\n%x\r\n%s\r\n0\r\n%s\r\n\r\n", len(w.body), w.body, strings.Join(trailers, "\r\n"))
		return exchange(t, e.Addr("PORT1"), b.String())
	}
	if a := chunked(w.with("X-Replicate-Signature"), "X-Replicate-Signature: "+digest); a.status == http.StatusOK {
		t.Errorf("signed in a trailer: got %v", a)
	}
	if n := e.app.Count(); n > 0 {
		t.Fatalf("the app got %d requests", n)
	}
	if a := chunked(w, "X-Replicate-Event: forged", "X-Replicate-Prediction-Id: forged", "X-Replicate-Verified: forged", "X-Other: forged"); a.status != http.StatusOK {
		t.Fatalf("a signed webhook with trailers: got %v", a)
	}
	got := e.app.Last()
	if len(got.Trailer) > 0 || got.Header.Get("Trailer") != "" {
		t.Errorf("the app got the trailers %v", got.Trailer)
	}
	for name, values := range got.Header {
		if slices.Contains(values, "forged") {
			t.Errorf("the app got %s from a trailer", name)
		}
	}
}

// exchange sends bytes over a connection and reads one answer.
func exchange(t *testing.T, addr, raw string) answer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * caddyrun.Patience))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// TestDuplicateKeys: no body is passed on that two parsers could read as two
// events, also when its signature is good.
func TestDuplicateKeys(t *testing.T) {
	e := newEdge(t, "")
	good := payload("p1", time.Now())
	for _, extra := range []string{
		`"event":"prediction.failed"`, `"event":"prediction.completed"`, `"\u0065vent":"x"`, `"prediction":{"id":"p2"}`,
		`"timestamp":"x"`, `"a":1,"a":1`, `"x":{"a":1,"a":2}`, `"x":[[{"":0,"":0}]]`,
	} {
		for _, body := range []string{"{" + extra + "," + good[1:], good[:len(good)-1] + "," + extra + "}"} {
			// In the standard scheme the time is outside the body, so all
			// of these are genuine and fresh.
			e.refused(standard(t, whsec, "msg_1", body, time.Now()), http.StatusBadRequest)
		}
	}
	inner := strings.Replace(good, `"id":"p1"`, `"id":"p1","id":"p2"`, 1)
	e.refused(standard(t, whsec, "msg_1", inner, time.Now()), http.StatusBadRequest)
}

// TestCaseFoldingParsers: what the app's parser makes of a body that was passed
// on is what the edge has made of it, also if the parser ignores case, as Go's
// does; and what it could make something else of is not passed on.
func TestCaseFoldingParsers(t *testing.T) {
	e := newEdge(t, "")
	good := payload("p1", time.Now())
	for _, extra := range []string{
		`"Event":"prediction.failed"`, `"EVENT":"x"`, `"PREDICTION":{"id":"p2"}`, `"Timestamp":"x"`, `"timeſtamp":"x"`,
		`"Prediction":null`, `"ID":"p2"`, `"\u0049D":"p2"`, `"ſtatus":"failed"`,
	} {
		for _, body := range []string{"{" + extra + "," + good[1:], good[:len(good)-1] + "," + extra + "}"} {
			e.refused(standard(t, whsec, "msg_1", body, time.Now()), http.StatusBadRequest)
		}
	}
	for _, extra := range []string{`"ID":"p2"`, `"Id":"p2"`, `"STATUS":"failed"`, `"ſtatuſ":"failed"`} {
		body := strings.Replace(good, `"id":"p1"`, `"id":"p1",`+extra, 1)
		e.refused(standard(t, whsec, "msg_1", body, time.Now()), http.StatusBadRequest)
	}
	// A model's input may have what keys it likes.
	e.accepted(standard(t, whsec, "msg_2", strings.Replace(good, `"seed":7`, `"seed":7,"Seed":8,"ID":"p2","Event":"x"`, 1), time.Now()))
	var seen struct {
		Event      string
		Prediction struct{ ID, Status string }
	}
	got := e.app.Last()
	if err := json.NewDecoder(bytes.NewReader(got.Got)).Decode(&seen); err != nil {
		t.Fatal(err)
	}
	if seen.Event != got.Header.Get("X-Replicate-Event") || seen.Prediction.ID != got.Header.Get("X-Replicate-Prediction-Id") {
		t.Errorf("a parser that ignores case reads %+v, the headers say %v", seen, got.Header)
	}
}

// TestBodyVariants: whichever spelling of a signed body is sent, the app gets
// the one that was signed.
func TestBodyVariants(t *testing.T) {
	e := newEdge(t, "dedup off")
	good := payload("p1", time.Now())
	w := replicate(t, whsec, good)
	for name, variant := range variants(t, good) {
		if a := e.send(w.withBody(variant)); !a.passed() {
			continue // a repeated key, say
		}
		if got := string(e.app.Last().Got); got != good {
			t.Errorf("%s: the app got %q", name, got)
		}
		if h := e.app.Last().Header; h.Get("Content-Length") != fmt.Sprint(len(good)) {
			t.Errorf("%s: Content-Length is %s", name, h.Get("Content-Length"))
		}
	}
	if e.app.Count() < 4 {
		t.Errorf("only %d variants were passed on", e.app.Count())
	}
}

// variants are other spellings of a body with the same ECMAScript form.
func variants(t testing.TB, body string) map[string]string {
	t.Helper()
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, []byte(body), " ", "\t"); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"as signed":         body,
		"white space":       spaced.String(),
		"around":            " \n" + body + "\r\n",
		"escapes":           strings.ReplaceAll(body, `"event"`, `"\u0065\u0076ent"`),
		"number":            strings.Replace(body, `"seed":7`, `"seed":7.0e0`, 1),
		"slash":             strings.Replace(body, `["x"]`, `["\u0078"]`, 1),
		"repeated key":      strings.Replace(body, `"seed":7`, `"seed":8,"seed":7`, 1),
		"repeated event":    strings.Replace(body, `{"event":"prediction.completed"`, `{"event":"prediction.failed","event":"prediction.completed"`, 1),
		"repeated, escaped": strings.Replace(body, `"seed":7`, `"\u0073eed":8,"seed":7`, 1),
	}
}

// TestHTTP2: the same over HTTP/2, where a connection carries many requests and
// header names are lower-case.
func TestHTTP2(t *testing.T) {
	e := newEdge(t, "", "servers {\nprotocols h1 h2c\n}")
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	w := replicate(t, whsec, payload("p1", time.Now()))
	send := func(w hook, trailer http.Header) answer {
		t.Helper()
		// A refusal ends its connection, so that each takes one of its own.
		transport := &http.Transport{Protocols: &p}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: 2 * caddyrun.Patience}
		r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, e.URL("PORT1", route), io.NopCloser(strings.NewReader(w.body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header, r.Trailer = w.header.Clone(), trailer
		a, err := do(client, r)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	forgery := replicate(t, unknown, w.body)
	for name, v := range map[string]hook{
		"unsigned": w.with("X-Replicate-Signature"), "forged": forgery, "changed": w.withBody(w.body + " x"),
		"alias": w.with("X-Replicate-Signature").with("X_replicate_signature", w.header.Get("X-Replicate-Signature")),
	} {
		if a := send(v, nil); a.status != http.StatusUnauthorized {
			t.Errorf("%s: got %v, want 401", name, a)
		}
	}
	if a := send(w.with("X-Replicate-Signature"), http.Header{"X-Replicate-Signature": w.header["X-Replicate-Signature"]}); a.status != http.StatusUnauthorized {
		t.Errorf("signed in a trailer: got %v", a)
	}
	if n := e.app.Count(); n > 0 {
		t.Fatalf("the app got %d requests", n)
	}
	if a := send(w.with("X-Replicate-Event", "forged"), http.Header{"X-Replicate-Verified": {"forged"}}); a.status != http.StatusOK {
		t.Fatalf("a signed one: got %v", a)
	}
	if got := e.app.Last(); got.Header.Get("X-Replicate-Event") != "prediction.completed" || len(got.Trailer) > 0 {
		t.Errorf("the app got %v and the trailers %v", got.Header, got.Trailer)
	}
}
