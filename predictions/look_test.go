package predictions

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
)

// tracked makes a prediction that the API has and the tracker knows.
func (f *fixture) tracked() string {
	f.t.Helper()
	wantStatus(f.t, f.do("POST", "/v1/predictions", ourBody), 201, three)
	ids := f.api.IDs()
	return ids[len(ids)-1]
}

func TestTrackedPredictionsAreObservedAndShown(t *testing.T) {
	for _, c := range []struct{ name, method, path, call string }{
		{"get", "GET", "/v1/predictions/%s", "succeeded"},
		{"training", "GET", "/v1/trainings/%s", "succeeded"},
		{"cancel", "POST", "/v1/predictions/%s/cancel", "succeeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			id := f.tracked()
			w := f.do(c.method, fmt.Sprintf(c.path, id), "", "If-None-Match", "x", "Range", "bytes=0-1")
			wantStatus(t, w, 200, `"webhook_url":"https://r.example/hook","webhook_status":"delivered","webhook_completed":true`)
			if w.Header().Get("Etag") != "" || strings.Count(w.Body.String(), "webhook_completed") != 1 {
				t.Fatalf("the answer is %v %s", w.Header(), w.Body)
			}
			wantCalls(t, f.fake.Calls("observe"), "observe "+id+" "+c.call)
		})
	}
}

func TestOtherPredictionsPassAsTheyAre(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.do("POST", "/v1/predictions", plainBody)
	id := f.api.IDs()[0]
	for _, path := range []string{"/v1/predictions/" + id, "/v1/predictions", "/v1/predictions/" + id + "/"} {
		w := f.do("GET", path, "")
		if w.Code == 200 && (w.Header().Get("Etag") == "" || !strings.Contains(w.Body.String(), `"webhook_completed":null`)) {
			t.Errorf("%s was changed: %s", path, w.Body)
		}
	}
	wantCalls(t, f.fake.Calls("observe"))
}

func TestALookDoesNotDependOnTheStore(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	id := f.tracked()
	f.fake.observe = errFakeStore
	wantStatus(t, f.do("GET", "/v1/predictions/"+id, ""), 200, three)
	f.fake.lookup = errFakeStore
	wantStatus(t, f.do("GET", "/v1/predictions/"+id, ""), 200, `"webhook_completed":null`)
}

func TestAnswersThatAreNotThePredictionPass(t *testing.T) {
	for _, c := range []struct {
		name, contentType, body string
		status                  int
	}{
		{"another prediction", "application/json", `{"id":"other","status":"succeeded"}`, 200},
		{"not JSON", "application/json", `<`, 200},
		{"over max_body", "application/json", `{"id":"%s","status":"succeeded","o":"` + strings.Repeat("x", 2000) + `"}`, 200},
		{"refused", "application/problem+json", `{"id":"%s"}`, 404},
		{"down", "application/json", `{"id":"%s","status":"succeeded"}`, 503},
		{"stream", "text/event-stream", "data: {\"id\":\"%s\"}\n\n", 200},
		{"markup", "application/json", `<html>`, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			id := f.tracked()
			f.h.MaxBody = 1000
			body := strings.ReplaceAll(c.body, "%s", id)
			f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, body)
			})
			w := f.do("GET", "/v1/predictions/"+id, "")
			if w.Code != c.status || w.Body.String() != body {
				t.Fatalf("the answer is %d %.100s", w.Code, w.Body)
			}
			if got := w.Header().Get(statusHeader); (got == "pending") != (c.status == 200) {
				t.Errorf("the header says that the webhook is %q", got)
			}
			wantCalls(t, f.fake.Calls("observe"))
		})
	}
}

func TestALookThatBreaksOff(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func() error
	}{
		{"panic", func() error { panic(http.ErrAbortHandler) }},
		{"error", func() error { return errors.New("late") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			id := f.tracked()
			f.next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"id":`)
				return c.end()
			})
			w := httptest.NewRecorder()
			func() {
				defer func() { _ = recover() }()
				if err := f.h.ServeHTTP(w, newRequest(t.Context(), "GET", "/v1/predictions/"+id, ""), f.next); err == nil {
					t.Error("the error is lost")
				}
			}()
			if w.Body.String() != `{"id":` {
				t.Fatalf("the client got %s", w.Body)
			}
			wantCalls(t, f.fake.Calls("observe"))
		})
	}
}

func TestTestPredictionsAreTheirCreatorsAlone(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.do("POST", "/v1/predictions", `{"webhook_url":"https://r.example/hook","test_mode":true}`)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/predictions/test_1", "", 200},
		{"POST", "/v1/predictions/test_1/cancel", "", 200},
		{"PATCH", "/v1/predictions/test_1", `{"webhook_url":"https://new.example"}`, 200},
		{"GET", "/v1/predictions/test_1/webhook_deliveries", "", 200},
		{"POST", "/v1/predictions/test_1/webhook_deliveries/1/redeliver", "", 202},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			wantStatus(t, f.do(c.method, c.path, c.body), c.status, "")
			wantProblem(t, f.do(c.method, c.path, c.body, "Authorization", "Bearer two"), 404, "no such prediction")
			wantProblem(t, f.do(c.method, strings.Replace(c.path, "test_1", "test_2", 1), c.body), 404, "no such prediction")
		})
	}
	if f.api.Gets.Load()+f.api.Cancels.Load()+f.api.Refused.Load() != 0 {
		t.Fatal("the API was asked for a test prediction")
	}
}

func TestSigningSecret(t *testing.T) {
	const theirs = "VXBzdHJlYW0ncyBvd24gc2VjcmV0IQ"
	t.Run("served", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{Gzip: true})
		f.h.ServeSigningSecret = true
		w := f.do("GET", "/v1/webhooks/default/secret", "")
		wantStatus(t, w, 200, `{"key":"whsec_of `+apiURL+` Bearer one"}`)
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Etag") != "" {
			t.Fatalf("the answer has %v", w.Header())
		}
	})
	t.Run("not asked for", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		wantStatus(t, f.do("GET", "/v1/webhooks/default/secret", ""), 200, theirs)
	})
	t.Run("refused by the API", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		f.h.ServeSigningSecret = true
		wantStatus(t, f.do("GET", "/v1/webhooks/default/secret", "", "Authorization", ""), 401, "authentication")
	})
	t.Run("not to be had", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		f.h.ServeSigningSecret = true
		f.fake.caller = upstream.ErrFailed
		w := f.do("GET", "/v1/webhooks/default/secret", "")
		wantProblem(t, w, 502, "")
		if strings.Contains(w.Body.String(), theirs) || w.Header().Get("Etag") != "" {
			t.Fatal("the API's own secret left")
		}
	})
	t.Run("no key", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		f.h.ServeSigningSecret = true
		f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"secret":1}`)
		})
		wantStatus(t, f.do("GET", "/v1/webhooks/default/secret", ""), 200, `{"secret":1}`)
	})
	t.Run("shared", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		f.h.ServeSigningSecret, f.fake.perClient = true, false
		if err := f.h.join(f.fake, f.fake, f.fake, nil); err == nil || !strings.Contains(err.Error(), "needs signing per_client") {
			t.Fatalf("got %v", err)
		}
	})
}
