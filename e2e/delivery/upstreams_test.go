package delivery_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestEveryEndIsDelivered: how a prediction ends, and where from it is seen.
func TestEveryEndIsDelivered(t *testing.T) {
	for _, c := range []struct {
		name    string
		options fakeapi.Options
		header  []string
		end     string // event and status
		sync    bool
	}{
		{name: "succeeds later", options: fakeapi.Options{Run: 50 * time.Millisecond}, end: "prediction.completed succeeded"},
		{name: "fails later", options: fakeapi.Options{Run: 50 * time.Millisecond, Failure: "out of memory"}, end: "prediction.failed failed"},
		{name: "was never seen running", end: "prediction.completed succeeded"},
		{name: "is in the create's answer", header: []string{"Prefer", "wait"}, end: "prediction.completed succeeded", sync: true},
		{name: "is a failure in the create's answer", options: fakeapi.Options{Failure: "no"}, header: []string{"Prefer", "wait=5"}, end: "prediction.failed failed", sync: true},
		{name: "comes compressed", options: fakeapi.Options{Run: 50 * time.Millisecond, Gzip: true}, end: "prediction.completed succeeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHook(t)
			s := start(t, c.options, config{ports: []string{portOf(h.Server)}})
			a := s.send(http.MethodPost, "/v1/predictions", createBody(h.URL), c.header...)
			v := s.read(a)
			if a.status != http.StatusCreated || a.header.Get("Content-Encoding") != "" || v.URL == nil || *v.URL != h.URL {
				t.Fatalf("got %v", a)
			}
			if want := fmt.Sprint(len(a.body)); a.header.Get("Content-Length") != want || a.header.Get("Etag") != "" {
				t.Fatalf("its headers are %v, want a Content-Length of %s and no Etag", a.header, want)
			}
			first, last := h.Wait(1), h.Wait(2)
			if !strings.Contains(string(first.Got), `"event":"prediction.started"`) || !strings.Contains(string(first.Got), `"status":"processing"`) ||
				strings.Contains(string(first.Got), `"output"`) || strings.Contains(string(first.Got), `"completed_at"`) {
				t.Fatalf("the started event is %s", first.Got)
			}
			event, status, _ := strings.Cut(c.end, " ")
			if !strings.Contains(string(last.Got), `"event":"`+event+`"`) || !strings.Contains(string(last.Got), `"status":"`+status+`"`) {
				t.Fatalf("the last event is %s, want %s", last.Got, c.end)
			}
			s.ends(v.ID, "delivered")
			if c.sync && s.api.Gets.Load() != s.polled() {
				t.Fatal("a prediction that ended in the create's answer was polled")
			}
			if n := h.Count(); n != 2 {
				t.Fatalf("the receiver got %d requests", n)
			}
		})
	}
}

// polled is how often this test itself asked for predictions.
func (s *site) polled() int64 {
	var n int64
	for _, r := range s.upstream.Seen() {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/predictions/") && r.Header.Get("User-Agent") == "Go-http-client/1.1" {
			n++
		}
	}
	return n
}

// TestCanceledPredictionsFail: a cancel through the proxy is seen there.
func TestCanceledPredictionsFail(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Manual: true}, config{ports: []string{portOf(h.Server)}, options: []string{"poll 1h 1h"}})
	v := s.run(h.URL)
	if a := s.send(http.MethodPost, "/v1/predictions/"+v.ID+"/cancel", ""); a.status != http.StatusOK || s.read(a).Status != "canceled" {
		t.Fatalf("canceling: got %v", a)
	}
	if last := h.Wait(2); !strings.Contains(string(last.Got), `"event":"prediction.failed"`) || !strings.Contains(string(last.Got), `"status":"canceled"`) {
		t.Fatalf("got %s", last.Got)
	}
	s.ends(v.ID, "delivered")
}

// TestPollingOutlivesUpstreamTrouble: 429, 500 and nonsense to polls are waited
// out, and a prediction that the API no longer knows is failed.
func TestPollingOutlivesUpstreamTrouble(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault fakeapi.Fault
	}{
		{"429", fakeapi.Status(http.MethodGet, "/predictions/", http.StatusTooManyRequests, 2, "Retry-After", "1")},
		{"500", fakeapi.Status(http.MethodGet, "/predictions/", http.StatusInternalServerError, 3)},
		{"nonsense", func() fakeapi.Fault {
			n := 0
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || n >= 3 {
					return false
				}
				n++
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte([]string{`{"id":7}`, `<html>`, `{"id":"somebody-else","status":"succeeded"}`}[n-1]))
				return true
			}
		}()},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHook(t)
			s := start(t, fakeapi.Options{Manual: true}, config{ports: []string{portOf(h.Server)}})
			v := s.run(h.URL)
			h.Wait(1)
			s.api.Inject(c.fault)
			s.api.Set(v.ID, "succeeded", `"after all"`)
			if last := h.Wait(2); !strings.Contains(string(last.Got), `"output":"after all"`) {
				t.Fatalf("got %s", last.Got)
			}
			s.ends(v.ID, "delivered")
		})
	}
}

// TestNonsenseToACreatePasses: what the API responds reaches the client, says that
// its webhook failed, and is logged.
func TestNonsenseToACreatePasses(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}})
	for _, c := range []struct {
		name, kind, body string
		status           int
		logged           bool
	}{
		{"not JSON", "text/html", "<html>hello</html>", http.StatusOK, true},
		{"JSON that is none", "application/json", `{"id":`, http.StatusCreated, true},
		{"no id", "application/json", `{"status":"starting"}`, http.StatusCreated, true},
		{"an id that is a number", "application/json", `{"id":12,"status":"starting"}`, http.StatusCreated, true},
		{"an array", "application/json", `[{"id":"abc"}]`, http.StatusCreated, true},
		{"a refusal", "application/problem+json", `{"title":"Unprocessable","status":422}`, http.StatusUnprocessableEntity, false},
		{"no money", "application/problem+json", `{"title":"Payment required","status":402}`, http.StatusPaymentRequired, false},
		{"broken", "text/plain", "oh no", http.StatusInternalServerError, false},
		{"nothing", "", "", http.StatusNoContent, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			s.api.Inject(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPost {
					return false
				}
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
				return true
			})
			logged := len(s.logs.Lines("its webhook is not tracked"))
			a := s.send(http.MethodPost, "/v1/predictions", createBody(h.URL))
			body, failed := c.body, a.header.Get("X-Replicate-Webhook-Status") == "failed"
			if strings.HasSuffix(body, `"starting"}`) {
				// An object can say so itself.
				body = strings.TrimSuffix(body, "}") + `,"webhook_url":"` + h.URL + `","webhook_status":"failed","webhook_completed":true}`
				failed = !failed
			}
			if a.status != c.status || a.body != body || a.header.Get("Content-Type") != c.kind || failed != c.logged {
				t.Fatalf("got %v, want %d %q", a, c.status, body)
			}
			if got := len(s.logs.Lines("its webhook is not tracked")) > logged; got != c.logged {
				t.Fatalf("logged %v, want %v:\n%s", got, c.logged, s.logs)
			}
		})
	}
	s.api.Inject(nil)
	if n := h.Count(); n != 0 {
		t.Fatalf("the receiver got %d requests", n)
	}
}

// TestStoreTroubleIsFoundOutBeforeTheAPIIsCharged: 503 in the API's own shape.
func TestStoreTroubleIsFoundOutBeforeTheAPIIsCharged(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{
		ports: []string{portOf(h.Server)}, options: []string{"store sqlite {$DIR}/store/webhook.db"},
	})
	s.cutOff()
	a := s.send(http.MethodPost, "/v1/predictions", createBody(h.URL))
	// The first may be the one that finds out, after the API was asked: its
	// answer must not be lost.
	if a.status == http.StatusCreated {
		if v := s.read(a); v.Webhook != "failed" || !v.Completed {
			t.Fatalf("it could not be stored, and says %+v", v)
		}
	}
	charged := s.api.Creates.Load()
	a = s.send(http.MethodPost, "/v1/predictions", createBody(h.URL))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("got %v", a)
	}
	if s.api.Creates.Load() != charged {
		t.Fatal("the API was charged")
	}
	// Requests that need no store are none the worse.
	if a := s.send(http.MethodPost, "/v1/predictions", `{"version":"v1","input":{}}`); a.status != http.StatusCreated {
		t.Fatalf("got %v", a)
	}
}

// cutOff makes the next commit fail, and takes the store's folder away so that
// no later one can succeed.
func (s *site) cutOff() {
	s.t.Helper()
	dir := s.Path("store")
	db, err := sql.Open("sqlite", filepath.Join(dir, "webhook.db")+"?_pragma=busy_timeout(5000)")
	if err == nil {
		_, err = db.Exec("CREATE TRIGGER broken BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'no space left'); END")
	}
	if err == nil {
		err = errors.Join(db.Close(), os.Rename(dir, dir+".away"))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestCallbacksInPlaceOfPolls: the API's own webhooks feed the tracker, with a
// GET to fall back on and without, and no client sees the token.
func TestCallbacksInPlaceOfPolls(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler []string
		front   string
	}{
		{"beside polls", nil, ""},
		{"without a GET", []string{"api off"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHook(t)
			client := caddyrun.NewClient(t)
			s := start(t, fakeapi.Options{Run: 30 * time.Millisecond, Webhooks: client}, config{
				ports:   []string{portOf(h.Server)},
				options: []string{"callback http://127.0.0.1:{$PORT2}/callback", "poll 1h 1h"},
				handler: c.handler,
				sites:   "http://127.0.0.1:{$PORT2} {\n log\n handle /callback/* {\n " + c.front + "\n replicate_callback\n }\n handle {\n respond 404\n }\n}",
			})
			t.Cleanup(s.api.Wait)
			a := s.send(http.MethodPost, "/v1/predictions", createBody(h.URL))
			if a.status != http.StatusCreated || strings.Contains(a.body, "callback") {
				t.Fatalf("got %v", a)
			}
			last := string(s.api.Last().Body)
			if !strings.Contains(last, `"webhook":"`+s.URL("PORT2", "/callback/")) || !strings.Contains(last, `"webhook_events_filter":["start","completed"]`) {
				t.Fatalf("the API got %s", last)
			}
			_, token, _ := strings.Cut(last, "/callback/")
			token, _, _ = strings.Cut(token, `"`)
			first, end := h.Wait(1), h.Wait(2)
			if !strings.Contains(string(first.Got), "prediction.started") || !strings.Contains(string(end.Got), "prediction.completed") {
				t.Fatalf("got %s\n%s", first.Got, end.Got)
			}
			s.api.Wait()
			if s.api.Gets.Load() != 0 {
				t.Fatal("it was polled")
			}
			if len(token) < 40 || strings.Contains(s.logs.String(), token) {
				t.Fatalf("the token %q is in the log", token)
			}
			if c.handler == nil {
				s.ends(s.read(a).ID, "delivered")
			}
			for _, wrong := range []string{token + "x", strings.ToUpper(token), "", strings.Repeat("A", len(token))} {
				resp, err := client.Post(s.URL("PORT2", "/callback/"+wrong), "application/json", strings.NewReader(`{"id":"x","status":"failed"}`))
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound {
					t.Fatalf("token %q got %d", wrong, resp.StatusCode)
				}
			}
		})
	}
}
