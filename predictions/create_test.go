package predictions

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/klauspost/compress/zstd"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
)

const (
	plainBody = `{"version":"v","input":{"n":9007199254740993, "f":1.0}}`
	ourBody   = `{"version":"v","webhook_url":"https://r.example/hook","input":{"n":9007199254740993, "f":1.0}}`
	three     = `"webhook_url":"https://r.example/hook","webhook_status":"pending","webhook_completed":false`
)

func TestCreateIsCapturedBeforeItsAnswer(t *testing.T) {
	for _, path := range []string{"/v1/predictions", "/v1/models/o/n/predictions", "/v1/deployments/o/n/predictions", "/v1/trainings", "/v1/models/o/n/versions/v/trainings"} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			w := f.do("POST", path, ourBody, "Content-Digest", "sha-256=:x:", "Traceparent", "00-a-b-01", "Expect", "100-continue")
			wantStatus(t, w, 201, three)
			if !strings.HasSuffix(w.Body.String(), "}\n") || strings.Count(w.Body.String(), "webhook_completed") != 1 || w.Header().Get("Etag") != "" {
				t.Fatalf("the answer is %v %s", w.Header(), w.Body)
			}
			sent := f.api.Last()
			if string(sent.Body) != plainBody || sent.Length != int64(len(plainBody)) || sent.Header.Get("Accept-Encoding") != "identity" {
				t.Fatalf("the API got %d %s", sent.Length, sent.Body)
			}
			for _, name := range []string{"Content-Digest", "Expect"} {
				if sent.Header.Get(name) != "" {
					t.Errorf("the API got %s", name)
				}
			}
			collection := "/predictions"
			if strings.HasSuffix(path, "trainings") {
				collection = "/trainings"
			}
			wantCalls(t, f.fake.Calls("created", "abandon"), "created "+f.api.IDs()[0]+" starting https://r.example/hook "+collection+" 0 00-a-b-01")
		})
	}
}

func TestOtherCreatesPassAsTheyAre(t *testing.T) {
	for _, c := range []struct{ name, path, body, contentType string }{
		{"no webhook", "/v1/predictions", plainBody, "application/json"},
		{"escapes", "/v1/predictions", `{"input":{"a":"\u00e9"}}`, "application/json"},
		{"name in a value", "/v1/predictions", `{"input":{"a":"webhook_url"}}`, "application/json"},
		{"nested", "/v1/predictions", `{"input":{"webhook_url":"x"}}`, ""},
		{"invalid", "/v1/predictions", `{"input":{"webhook_url":"https://x"},}`, "application/json"},
		{"a form", "/v1/predictions", `input=webhook_url&a=b`, "application/x-www-form-urlencoded"},
		{"odd path", "/v1/predictions/", plainBody, "application/json"},
		{"escaped path", "/v1/%70redictions", plainBody, "application/json"},
		{"text", "/v1/predictions", plainBody, "text/plain"},
		{"another resource", "/v1/models", ourBody, "application/json"},
		{"empty", "/v1/predictions", ``, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			var got []byte
			f.answerWith(func(w http.ResponseWriter, r *http.Request) {
				got, _ = io.ReadAll(r.Body)
				if r.ContentLength != int64(len(c.body)) {
					t.Errorf("ContentLength is %d", r.ContentLength)
				}
				w.Header().Set("Etag", "x")
				_, _ = io.WriteString(w, `{"id":"p"}`)
			})
			w := f.do("POST", c.path, c.body, "Content-Type", c.contentType)
			if string(got) != c.body || w.Body.String() != `{"id":"p"}` || w.Header().Get("Etag") != "x" {
				t.Fatalf("passed %q, answered %s", got, w.Body)
			}
			wantCalls(t, f.fake.Calls(""))
		})
	}
}

func TestMembersThatHoldNothingAreOnlyCutOut(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	w := f.do("POST", "/v1/predictions", `{"webhook_url":null,"input":{},"test_mode":false}`)
	wantStatus(t, w, 201, `"webhook_completed":null`)
	if got := string(f.api.Last().Body); got != `{"input":{}}` {
		t.Fatalf("the API got %s", got)
	}
	wantCalls(t, f.fake.Calls(""))
}

func TestErrorsBeforeTheUpstreamIsCharged(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*fixture)
		body   string
		status int
		detail string
	}{
		{"bad URL", func(*fixture) {}, `{"webhook_url":"http://x"}`, 422, "webhook_url must use https"},
		{"store", func(f *fixture) { f.fake.ready = errFakeStore }, ourBody, 503, "can't be stored"},
		{"reservation", func(f *fixture) { f.fake.reserve = errFakeStore }, ourBody, 503, "can't be stored"},
		{"API", func(f *fixture) { f.fake.caller = fmt.Errorf("%w: refused", upstream.ErrFailed) }, ourBody, 502, "could not be asked"},
		{"budget", func(f *fixture) { f.h.budget = body.NewBudget(100) }, ourBody, 503, "too many request bytes"},
		{"test mode off", func(f *fixture) { f.h.TestMode = "off"; f.configure() }, `{"webhook_url":"https://x","test_mode":true}`, 422, "switched off"},
		{"too large", func(f *fixture) { f.h.MaxBody = 50 }, ourBody, 413, "at most 50 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			c.set(f)
			w := f.do("POST", "/v1/predictions", c.body)
			wantProblem(t, w, c.status, c.detail)
			if got := w.Header().Get("Retry-After"); (got != "") != (c.status == 503) {
				t.Errorf("Retry-After is %q", got)
			}
			if f.api.Creates.Load() != 0 || len(f.fake.Calls("created")) != 0 {
				t.Fatal("the API was charged")
			}
		})
	}
}

func TestRefusalsArePassedBackAsTheyAre(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.caller = &upstream.Refusal{Status: 401, Header: http.Header{"Www-Authenticate": {"Bearer"}, "Content-Type": {"x/y"}}, Body: []byte("no")}
	w := f.do("POST", "/v1/predictions", ourBody)
	wantStatus(t, w, 401, "no")
	if w.Header().Get("Www-Authenticate") != "Bearer" || w.Header().Get("Content-Type") != "x/y" || f.api.Creates.Load() != 0 {
		t.Fatalf("the answer is %v", w.Header())
	}
}

func TestUnreadableBodies(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
	}{
		{"broken off", io.ErrUnexpectedEOF, 400},
		{"limited by another handler", &http.MaxBytesError{Limit: 1}, 413},
		{"refused by another handler", caddyhttp.Error(413, errors.New("x")), 413},
		{"too slow", context.DeadlineExceeded, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			r := newRequest(t.Context(), "POST", "/v1/predictions", "x")
			r.Body, r.ContentLength = &brokenBody{`{"webhook_url":`, c.err}, -1
			w := httptest.NewRecorder()
			if err := f.h.ServeHTTP(w, r, f.next); err != nil {
				t.Fatal(err)
			}
			wantProblem(t, w, c.status, "")
		})
	}
}

func TestLargeRequestsWithoutAWebhookStreamOn(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.h.MaxBody = 1000
	body := `{"input":{"a":"` + strings.Repeat("x", 300<<10) + `","b":"webhook_url"}}`
	wantStatus(t, f.do("POST", "/v1/predictions", body), 201, `"webhook_completed":null`)
	if got := string(f.api.Last().Body); got != body {
		t.Fatalf("the API got %d bytes, want %d", len(got), len(body))
	}
}

func TestChunkedBodies(t *testing.T) {
	for _, n := range []int{10, 5000, 70 << 10, 300 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			b := f.h.budget
			input := strings.Repeat("x", n)
			r := newRequest(t.Context(), "POST", "/v1/predictions", `{"webhook_url":"https://r.example/hook","input":{"a":"`+input+`"}}`)
			r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
			w := httptest.NewRecorder()
			if err := f.h.ServeHTTP(w, r, f.next); err != nil {
				t.Fatal(err)
			}
			wantStatus(t, w, 201, three)
			if want := `{"input":{"a":"` + input + `"}}`; string(f.api.Last().Body) != want || f.api.Last().Length != int64(len(want)) {
				t.Fatalf("the API got %d bytes", len(f.api.Last().Body))
			}
			if !b.For("192.0.2.1").Take(32 << 20) {
				t.Fatal("bytes of the request were not given back")
			}
		})
	}
}

func TestCallbackIsAddedAndHidden(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.callback = "https://hooks.example/cb"
	w := f.do("POST", "/v1/predictions", ourBody)
	wantStatus(t, w, 201, three)
	want := strings.TrimSuffix(plainBody, "}") + `,"webhook":"https://hooks.example/cb/` + fakeToken + `","webhook_events_filter":["start","completed"]}`
	if got := string(f.api.Last().Body); got != want {
		t.Fatalf("the API got %s", got)
	}
	for _, w := range []*httptest.ResponseRecorder{w, f.do("GET", "/v1/predictions/"+f.api.IDs()[0], ""), f.do("POST", "/v1/predictions/"+f.api.IDs()[0]+"/cancel", "")} {
		if strings.Contains(w.Body.String(), fakeToken) || strings.Contains(w.Body.String(), "webhook_events_filter") {
			t.Fatalf("the client sees the callback: %s", w.Body)
		}
	}
	wantCalls(t, f.fake.Calls("reserve", "abandon"), "reserve")
}

func TestTheClientsOwnWebhookIsLeftAlone(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.callback = "https://hooks.example/cb"
	w := f.do("POST", "/v1/predictions", `{"webhook":"https://own.example","webhook_url":"https://r.example/hook","input":{}}`)
	wantStatus(t, w, 201, three)
	wantStatus(t, w, 201, `"webhook":"https://own.example"`)
	if got := string(f.api.Last().Body); got != `{"webhook":"https://own.example","input":{}}` {
		t.Fatalf("the API got %s", got)
	}
	wantCalls(t, f.fake.Calls("reserve"))
}

func TestReservationsAreGivenUpWithTheCreate(t *testing.T) {
	for _, c := range []struct {
		name string
		next caddyhttp.HandlerFunc
	}{
		{"refused", func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(422); return nil }},
		{"failed", func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(500); return nil }},
		{"error", func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, errors.New("dialing")) }},
		{"panic", func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }},
		{"no answer", func(http.ResponseWriter, *http.Request) error { return nil }},
		{"only informational", func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(103); return errors.New("x") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.fake.callback = "https://hooks.example/cb"
			func() {
				defer func() {
					if v := recover(); v != nil && v != http.ErrAbortHandler {
						panic(v)
					}
				}()
				_ = f.h.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), "POST", "/v1/predictions", ourBody), c.next)
			}()
			wantCalls(t, f.fake.Calls("reserve", "abandon", "created"), "reserve", "abandon")
		})
	}
}

func TestAnAcceptedCreateIsAnsweredWhateverFailsHere(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.created = errFakeStore
	w := f.do("POST", "/v1/predictions", ourBody)
	wantStatus(t, w, 201, `"webhook_status":"failed","webhook_completed":true`)
	wantStatus(t, w, 201, f.api.IDs()[0])
}

func TestAResponseThatIsNoPredictionSaysThatTheWebhookFailed(t *testing.T) {
	const failed = `"webhook_url":"https://r.example/hook","webhook_status":"failed","webhook_completed":true`
	for _, c := range []struct {
		name, contentType, body string
		status                  int
		want, header            string
		calls                   []string
	}{
		{"not JSON", "application/json", `<html>`, 200, `<html>`, "failed", []string{"abandon"}},
		{"empty", "application/json", ``, 200, ``, "failed", []string{"abandon"}},
		{"white space", "application/json", " \n", 200, " \n", "failed", []string{"abandon"}},
		{"no id", "application/json", `{"status":"starting"}`, 201, `{"status":"starting",` + failed + `}`, "", []string{"abandon"}},
		{"a number for an id", "application/json", `{"id":7}`, 201, `{"id":7,` + failed + `}`, "", []string{"abandon"}},
		{"a path for an id", "application/json", `{"id":"../x"}`, 201, `{"id":"../x",` + failed + `}`, "", []string{"abandon"}},
		{"a long id", "text/html", `{"id":"` + strings.Repeat("x", 129) + `"}`, 201, `{"id":"` + strings.Repeat("x", 129) + `",` + failed + `}`, "", []string{"abandon"}},
		{"an array", "application/json", `[{"id":"p"}]`, 201, `[{"id":"p"}]`, "failed", []string{"abandon"}},
		{"truncated", "application/json", `{"id":"p","status":"starting","inp`, 201, `{"id":"p","status":"starting","inp`, "pending", []string{"bodyless p starting"}},
		{"trailing garbage", "application/json", `{"id":"p"}}`, 201, `{"id":"p"}}`, "pending", []string{"bodyless p "}},
		{"not a number", "application/json", `{"id":"p","output":NaN}`, 201, `{"id":"p","output":NaN}`, "pending", []string{"bodyless p "}},
		{"nothing with an id that reads", "", `{"status":NaN,"id":""}`, 201, `{"status":NaN,"id":""}`, "failed", []string{"abandon"}},
		{"no content", "application/json", ``, 204, ``, "failed", []string{"abandon"}},
		{"an unknown coding", "application/json", "\x01\x02", 201, "\x01\x02", "failed", []string{"abandon"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.Header().Set("Etag", "x")
				w.Header().Set(statusHeader, "delivered")
				if c.name == "an unknown coding" {
					w.Header().Set("Content-Encoding", "exi")
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			w := f.do("POST", "/v1/predictions", ourBody)
			if w.Code != c.status || w.Body.String() != c.want || w.Header().Get(statusHeader) != c.header {
				t.Fatalf("the response is %d %v %s", w.Code, w.Header(), w.Body)
			}
			if (w.Header().Get("Etag") != "") != (c.header != "") {
				t.Errorf("the response has %v", w.Header())
			}
			wantCalls(t, f.fake.Calls("created", "bodyless", "abandon"), c.calls...)
		})
	}
}

// An API may give JSON any content type, or none.
func TestAResponseIsJudgedByItsBytes(t *testing.T) {
	for _, contentType := range []string{"", "text/html", "text/plain; charset=utf-8", "application/octet-stream", "image/png", "text/event-stream"} {
		for _, mark := range []string{"", "\ufeff", " \r\n\t"} {
			t.Run(contentType+mark, func(t *testing.T) {
				f := newFixture(t, fakeapi.Options{})
				f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
					w.Header()["Content-Type"] = []string{contentType}
					w.WriteHeader(201)
					_, _ = io.WriteString(w, mark+`{"id":"p","status":"starting"}`)
				})
				w := f.do("POST", "/v1/predictions", ourBody)
				if want := mark + `{"id":"p","status":"starting",` + three + `}`; w.Body.String() != want || w.Header().Get("Content-Type") != contentType {
					t.Fatalf("the response is %v %s", w.Header(), w.Body)
				}
				w = f.do("GET", "/v1/predictions/p", "")
				wantStatus(t, w, 201, three)
				wantCalls(t, f.fake.Calls("created", "observe", "bodyless"),
					"created p starting https://r.example/hook /predictions 0 ", "observe p starting")
			})
		}
	}
}

// encodings are the content codings of a text, by their header.
func encodings(t testing.TB, text string) map[string]string {
	t.Helper()
	with := func(make func(io.Writer) io.WriteCloser, text string) string {
		var b bytes.Buffer
		w := make(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	br := func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }
	zs := func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	return map[string]string{
		"gzip":       with(gz, text),
		"X-GZIP":     with(gz, text),
		"deflate":    with(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, text),
		"zstd":       with(zs, text),
		"br":         with(br, text),
		"gzip, gzip": with(gz, with(gz, text)),
		"br,zstd":    with(zs, with(br, text)),
		"Identity":   text,
	}
}

func TestEncodedResponsesAreDecoded(t *testing.T) {
	const body = `{"id":"p","status":"starting"}`
	for coding, text := range encodings(t, body) {
		respond := func(f *fixture, text string) {
			f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Encoding", coding)
				w.Header().Set("Content-Length", fmt.Sprint(len(text)))
				w.WriteHeader(201)
				for i := range len(text) {
					_, _ = io.WriteString(w, text[i:i+1])
				}
			})
		}
		t.Run(coding, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			respond(f, text)
			w := f.do("POST", "/v1/predictions", ourBody)
			wantStatus(t, w, 201, `{"id":"p","status":"starting",`+three+`}`)
			if w.Header().Get("Content-Encoding") != "" {
				t.Fatal("the response says it is encoded")
			}
		})
		t.Run(coding+", but only so called", func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			respond(f, body)
			wantStatus(t, f.do("POST", "/v1/predictions", ourBody), 201, `{"id":"p","status":"starting",`+three+`}`)
		})
	}
	t.Run("small until decoded", func(t *testing.T) {
		f := newFixture(t, fakeapi.Options{})
		f.h.MaxBody = 1000
		text := `{"output":"` + strings.Repeat("x", 100_000) + `","id":"p","status":"succeeded"}`
		f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, encodings(t, text)["gzip"])
		})
		if w := f.do("POST", "/v1/predictions", ourBody); w.Body.String() != text || w.Result().Trailer.Get(statusHeader) != "pending" {
			t.Fatalf("the response is %.100s with %v", w.Body, w.Result().Trailer)
		}
		wantCalls(t, f.fake.Calls("created", "bodyless"), "bodyless p succeeded")
	})
}

// watched is a client that notes, at each byte it is sent, whether the tracker
// has been told.
type watched struct {
	*httptest.ResponseRecorder
	told       func() bool
	beforehand int // bytes that came before
}

func (w *watched) Write(p []byte) (int, error) {
	if !w.told() {
		w.beforehand += len(p)
	}
	return w.ResponseRecorder.Write(p)
}

func TestLargeAnswersPassButForTheirLastByte(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.h.MaxBody = 1000
	body := `{"output":"` + strings.Repeat("x", 50_000) + `","id":"p","status":"succeeded"}`
	f.answerWith(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(201)
		for rest := body; rest != ""; {
			n := min(len(rest), 777)
			_, _ = io.WriteString(w, rest[:n])
			rest = rest[n:]
			_ = http.NewResponseController(w).Flush()
		}
	})
	w := &watched{ResponseRecorder: httptest.NewRecorder(), told: func() bool { return len(f.fake.Calls("bodyless")) > 0 }}
	if err := f.h.ServeHTTP(w, newRequest(t.Context(), "POST", "/v1/predictions", ourBody), f.next); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != body {
		t.Fatal("the answer was changed")
	}
	if w.beforehand != len(body)-1 {
		t.Fatalf("%d of %d bytes left before it was stored, want all but one", w.beforehand, len(body))
	}
	wantCalls(t, f.fake.Calls("bodyless", "created"), "bodyless p succeeded")
}

func TestNothingLeavesBeforeItIsStored(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	w := &watched{ResponseRecorder: httptest.NewRecorder(), told: func() bool { return len(f.fake.Calls("created")) > 0 }}
	f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(201)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, `{"id":"p"`)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, `}`)
	})
	if err := f.h.ServeHTTP(w, newRequest(t.Context(), "POST", "/v1/predictions", ourBody), f.next); err != nil {
		t.Fatal(err)
	}
	if w.beforehand != 0 || w.Flushed {
		t.Fatalf("%d bytes left before (flushed: %v)", w.beforehand, w.Flushed)
	}
	wantStatus(t, w.ResponseRecorder, 201, three)
}

func TestAnAnswerThatBreaksOffPassesAsFarAsItCame(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.callback = "https://hooks.example/cb"
	f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, `{"id":"p","status":"starting","input":`)
		panic(http.ErrAbortHandler)
	})
	w := httptest.NewRecorder()
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the panic was swallowed")
			}
		}()
		_ = f.h.ServeHTTP(w, newRequest(t.Context(), "POST", "/v1/predictions", ourBody), f.next)
	}()
	if w.Code != 201 || w.Body.String() != `{"id":"p","status":"starting","input":` || w.Header().Get("Content-Length") != "1000" {
		t.Fatalf("the client got %d %s", w.Code, w.Body)
	}
	wantCalls(t, f.fake.Calls("abandon", "bodyless", "created"), "bodyless p starting")
}

func TestTheExchangeOutlivesItsClient(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	ctx, leave := context.WithCancel(t.Context())
	f.context = ctx
	api := f.next
	f.next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		leave()
		if r.Context().Err() != nil {
			t.Error("the exchange ended with its client")
		}
		return api.ServeHTTP(w, r)
	})
	f.do("POST", "/v1/predictions", ourBody)
	if len(f.fake.Calls("created")) != 1 {
		t.Fatal("the prediction was not stored")
	}
}

func TestAnExchangeEndsSomeTimeAfterItsClient(t *testing.T) {
	parent, leave := context.WithCancel(t.Context())
	ctx, stop := outlive(parent, 1)
	defer stop()
	if ctx.Err() != nil {
		t.Fatal("it ended before")
	}
	leave()
	<-ctx.Done()

	parent, leave = context.WithCancel(t.Context())
	ctx, stop = outlive(parent, maxWait)
	leave()
	if ctx.Err() != nil {
		t.Fatal("it ended with its client")
	}
	stop()
	<-ctx.Done()
}

func TestStreamsFlowThroughACreate(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	w := httptest.NewRecorder()
	f.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(rw, "data: a\n\n")
		if err := http.NewResponseController(rw).Flush(); err != nil || !w.Flushed || w.Body.String() != "data: a\n\n" {
			t.Errorf("the event is kept back: %q %v", w.Body, err)
		}
	})
	if err := f.h.ServeHTTP(w, newRequest(t.Context(), "POST", "/v1/predictions", ourBody), f.next); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, f.fake.Calls("created", "bodyless", "abandon"), "abandon")
	if w.Header().Get(statusHeader) != "failed" {
		t.Fatalf("the header is %v", w.Header())
	}
}

func TestTestMode(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	w := f.do("POST", "/v1/predictions", `{"webhook_url":"https://r.example/hook","input":{"a":1.0},"version":"v","test_mode":"prediction.failed"}`)
	wantStatus(t, w, 201, `{"id":"test_1","status":"succeeded",`+three+`}`)
	if f.api.Creates.Load() != 0 {
		t.Fatal("the API was charged")
	}
	wantCalls(t, f.fake.Calls("authorise", "test"), "authorise account", `test https://r.example/hook fail=true {"a":1} v`)
}

func TestTestModeAsksTheAPI(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	for err, status := range map[error]int{upstream.ErrNoAPI: 501, upstream.ErrFailed: 502, &upstream.Refusal{Status: 403}: 403} {
		f.fake.authorise = err
		wantStatus(t, f.do("POST", "/v1/predictions", `{"webhook_url":"https://x","test_mode":true}`), status, "")
	}
	wantCalls(t, f.fake.Calls("test"))
}

func TestEventsAreHandedOn(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.do("POST", "/v1/predictions", `{"webhook_url":"https://x","webhook_events":["completed"],"input":{}}`)
	wantCalls(t, f.fake.Calls("created"), fmt.Sprintf("created %s starting https://x /predictions %d ", f.api.IDs()[0], event.Completed))
}
