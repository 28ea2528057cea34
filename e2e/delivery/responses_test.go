package delivery_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// raw makes the API respond with these very bytes, then end the connection.
func (s *site) raw(respond func(r *caddyrun.Request) string) {
	s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.URL.Path == "/v1/account" {
			s.api.ServeHTTP(w, r.Request)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			s.t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, respond(r))
		_ = conn.Close()
	})
}

// dialogue is what a client reads from its socket, to the end.
func (s *site) dialogue(method, path, body string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.Addr("PORT1"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		method, path, s.Addr("PORT1"), token, len(body), body); err != nil {
		s.t.Fatal(err)
	}
	got, _ := io.ReadAll(conn) // a reset comes after what was sent
	return string(got)
}

// readWire returns the status and body of a response as far as they came. ended tells
// whether it is complete.
func readWire(t *testing.T, wire string) (status int, body string, ended bool) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(wire)), nil)
	if err != nil {
		t.Fatalf("the client read %q: %v", wire, err)
	}
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(got), err == nil
}

// TestAResponseThatBreaksOffReachesTheClient compares what a client reads from its
// socket with what it reads without a webhook: the same status and bytes.
func TestAResponseThatBreaksOffReachesTheClient(t *testing.T) {
	const beginning = `{"id":"broken","status":"starting","input":{"prompt":"`
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}, handler: []string{"max_body 64KiB"}, options: []string{"poll 1h 1h"}})
	for _, c := range []struct{ name, wire, body string }{
		{"with a length", "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + beginning, beginning},
		{"chunked", fmt.Sprintf("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(beginning), beginning), beginning},
		{"before its first byte", "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n", ""},
		{"over max_body", "HTTP/1.1 201 Created\r\nContent-Length: 500000\r\n\r\n" + beginning + strings.Repeat("x", 100_000), beginning + strings.Repeat("x", 100_000)},
		{"an error", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5000\r\n\r\noops", "oops"},
		{"not an object", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n<html>", "<html>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			s.raw(func(*caddyrun.Request) string { return c.wire })
			status, body, ended := readWire(t, s.dialogue("POST", "/v1/predictions", `{"input":{}}`))
			if body != c.body || ended {
				t.Fatalf("without a webhook the client reads %d %.100q (ended: %v)", status, body, ended)
			}
			for _, request := range [][3]string{
				{"POST", "/v1/predictions", createBody(h.URL)},
				{"POST", "/v1/predictions", createBody(h.URL, `"webhook":"https://own.example"`)},
				{"GET", "/v1/predictions/broken", ""},
				{"POST", "/v1/predictions/broken/cancel", "{}"},
			} {
				gotStatus, got, ended := readWire(t, s.dialogue(request[0], request[1], request[2]))
				if gotStatus != status || got != body || ended {
					t.Errorf("%s %s: the client reads %d %.100q (ended: %v), want %d %.100q", request[0], request[1], gotStatus, got, ended, status, body)
				}
			}
		})
	}
}

// TestTheCallbackNeverReachesAClient: whatever the API responds with, and wherever
// that is cut, a client sees neither the token nor the URL made for its prediction.
func TestTheCallbackNeverReachesAClient(t *testing.T) {
	const base = "https://hooks.example.com/replicate/callback"
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}, handler: []string{"max_body 64KiB"}, options: []string{"poll 1h 1h", "callback " + base}})
	var callback string
	serve := func(respond func(callback string) string) {
		s.raw(func(r *caddyrun.Request) string {
			var sent struct {
				Webhook string `json:"webhook"`
			}
			if json.Unmarshal(r.Got, &sent) == nil && sent.Webhook != "" {
				callback = sent.Webhook
			}
			return respond(callback)
		})
	}
	text := func(status int, header, body string) string {
		return fmt.Sprintf("HTTP/1.1 %d Status\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, header, len(body), body)
	}
	gz := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
	br := func(s string) string {
		var b bytes.Buffer
		w := brotli.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
	object := func(callback string) string {
		return `{"id":"seen","status":"starting","webhook":"` + callback + `","webhook_events_filter":["start","completed"],"logs":"POST ` + callback + ` failed","input":{}}`
	}
	large := func(callback string) string {
		return `{"webhook":"` + callback + `","output":"` + strings.Repeat("x", 100_000) + `","again":"` + callback + `","id":"seen"}`
	}
	for _, c := range []struct {
		name    string
		respond func(callback string) string
		want    string // in the body
	}{
		{"a prediction", func(u string) string { return text(201, "", object(u)) }, `"id":"seen"`},
		{"with escapes", func(u string) string { return text(201, "", object(strings.ReplaceAll(u, "/", `\/`))) }, `"id":"seen"`},
		{"with other escapes", func(u string) string { return text(201, "", object(strings.ReplaceAll(u, "/", `\u002F`))) }, `"id":"seen"`},
		{"over max_body", func(u string) string { return text(201, "", large(u)) }, `"id":"seen"}`},
		{"over max_body, compressed", func(u string) string { return text(201, "Content-Encoding: gzip\r\n", gz(large(u))) }, `"id":"seen"}`},
		{"an id that can't be tracked", func(u string) string { return text(201, "", `{"id":"../x","webhook":"`+u+`"}`) }, `"id":"../x"`},
		{"no id", func(u string) string { return text(201, "", `{"data":{"webhook":"`+u+`"}}`) }, `{"data":{"webhook":null`},
		{"broken JSON", func(u string) string { return text(201, "", `{"id":"seen","x":NaN,"webhook":"`+u+`"}`) }, `NaN,"webhook":null`},
		{"not an object", func(u string) string { return text(200, "", `<a href="`+u+`">`) }, `<a href=`},
		{"another content type", func(u string) string { return text(201, "Content-Type: text/html\r\n", object(u)) }, `"id":"seen"`},
		{"an error that echoes", func(u string) string {
			return text(422, "Content-Type: application/problem+json\r\n", `{"detail":"webhook \"`+u+`\" is not reachable"}`)
		}, `is not reachable`},
		{"an error, compressed", func(u string) string { return text(500, "Content-Encoding: gzip\r\n", gz("see "+u+" for more")) }, "for more"},
		{"in Brotli", func(u string) string { return text(201, "Content-Encoding: br\r\n", br(object(u))) }, `"id":"seen"`},
		{"compressed twice", func(u string) string { return text(201, "Content-Encoding: gzip, gzip\r\n", gz(gz(object(u)))) }, `"id":"seen"`},
		{"an unknown coding", func(u string) string { return text(201, "Content-Encoding: exi\r\n", "\x80"+u) }, "\x80"},
		{"headers", func(u string) string {
			return "HTTP/1.1 103 Early Hints\r\nLink: <" + u + ">\r\n\r\n" + text(303, "Location: /x?next="+strings.ReplaceAll(u, "/", "%2F")+"\r\nLink: <"+u+">; rel=x\r\n", "ok")
		}, "ok"},
		{"events", func(u string) string { return text(200, "Content-Type: text/event-stream\r\n", "data: "+u+"\n\n") }, "\n\n"},
		{"a trailer", func(u string) string {
			return "HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\nTrailer: X-Hook\r\n\r\n2\r\nno\r\n0\r\nX-Hook: " + u + "\r\n\r\n"
		}, "no"},
		{"a list", func(u string) string { return text(200, "", `{"next":null,"results":[`+object(u)+`,`+object(u)+`]}`) }, `"results"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			serve(c.respond)
			for _, request := range [][3]string{
				{"POST", "/v1/predictions", createBody(h.URL)},
				{"GET", "/v1/predictions/seen", ""},
				{"POST", "/v1/predictions/seen/cancel", "{}"},
				{"GET", "/v1/predictions", ""},
				{"GET", "/v1/predictions/seen/", ""},
				{"GET", "/v1/%70redictions/seen", ""},
				{"GET", "/v1/predictions/never-tracked", ""},
			} {
				wire := s.dialogue(request[0], request[1], request[2])
				if !strings.Contains(callback, base+"/") {
					t.Fatalf("the API was told of %q", callback)
				}
				wantHidden(t, wire, callback)
				if _, body, _ := readWire(t, wire[strings.LastIndex(wire, "HTTP/1.1 "):]); !strings.Contains(body, c.want) {
					t.Errorf("%s %s: the client read %.300q", request[0], request[1], wire)
				}
			}
		})
	}
	t.Run("cut anywhere", func(t *testing.T) {
		s.t = t
		for _, coded := range []bool{false, true} {
			whole := 400
			for cut := 0; cut < whole; cut += 7 {
				serve(func(u string) string {
					header, body := "", object(u)
					if coded {
						header, body = "Content-Encoding: gzip\r\n", gz(body)
					}
					whole = len(body)
					return fmt.Sprintf("HTTP/1.1 201 Created\r\n%sContent-Length: %d\r\n\r\n%s", header, len(body), body[:min(cut, len(body))])
				})
				wire := s.dialogue("POST", "/v1/predictions", createBody(h.URL))
				wantHidden(t, wire, callback)
				if status, _, _ := readWire(t, wire); status != 201 {
					t.Fatalf("cut at %d the client read %q", cut, wire)
				}
			}
		}
	})
}

// wantHidden fails where a client has read so much of a callback that it could
// guess the rest.
func wantHidden(t *testing.T, wire, callback string) {
	t.Helper()
	token := callback[strings.LastIndexByte(callback, '/')+1:]
	for i := 0; i+10 <= len(token); i++ {
		if strings.Contains(wire, token[i:i+10]) {
			t.Fatalf("the client read %q of the token: %.600q", token[i:i+10], wire)
		}
	}
}
