package predictions

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func TestUpdate(t *testing.T) {
	for _, c := range []struct {
		name, body, want string
		calls            []string
	}{
		{"new URL", `{"webhook_url":"https://new.example"}`, `"webhook_url":"https://new.example","webhook_status":"pending","webhook_completed":false`, []string{"fetch p", "set p https://new.example 0"}},
		{"disabled", `{"webhook_url":null}`, `"webhook_url":null,"webhook_status":"disabled","webhook_completed":true`, []string{"fetch p", "set p  0"}},
		{"events alone keep the URL", `{"webhook_events":["completed"]}`, `"webhook_url":"https://old.example"`, []string{"fetch p", "set p https://old.example 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.fake.put(store.Prediction{API: apiURL, ID: "p", URL: "https://old.example"})
			w := f.do("PATCH", "/v1/predictions/p", c.body)
			wantStatus(t, w, 200, c.want)
			wantStatus(t, w, 200, `{"id":"p","version":null,"input":{"a":1},"output":null,"error":null,"status":"processing","created_at":null,`)
			wantCalls(t, f.fake.Calls("fetch", "set", "existing"), c.calls...)
		})
	}
}

func TestUpdateOfAnUntrackedPrediction(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	wantStatus(t, f.do("PATCH", "/v1/predictions/p", `{"webhook_url":null}`), 200, `"webhook_url":null,"webhook_status":"disabled","webhook_completed":true`)
	wantProblem(t, f.do("PATCH", "/v1/predictions/p", `{"webhook_events":["failed"]}`), 422, "has no webhook")
	wantCalls(t, f.fake.Calls("existing", "set"))
	wantStatus(t, f.do("PATCH", "/v1/predictions/p", `{"webhook_url":"https://new.example"}`), 200, `"webhook_status":"pending"`)
	wantCalls(t, f.fake.Calls("existing", "set"), "existing p https://new.example")
}

func TestUpdatesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*fixture)
		body   string
		header []string
		status int
		detail string
	}{
		{"too large", nil, `{"webhook_url":"` + strings.Repeat("x", 70<<10) + `"}`, nil, 413, "64 KiB"},
		{"another type", nil, `{}`, []string{"Content-Type", "text/plain"}, 415, "must be JSON"},
		{"encoded", nil, `{}`, []string{"Content-Encoding", "gzip"}, 415, "must be JSON"},
		{"nothing", nil, ``, nil, 400, "can't be read"},
		{"bad URL", nil, `{"webhook_url":"http://x"}`, nil, 422, "must use https"},
		{"store", func(f *fixture) { f.fake.ready = errFakeStore }, `{"webhook_url":null}`, nil, 503, "can't be stored"},
		{"API off", func(f *fixture) { f.fake.authorise = upstream.ErrNoAPI }, `{"webhook_url":null}`, nil, 501, "not available"},
		{"API down", func(f *fixture) { f.fake.authorise = upstream.ErrFailed }, `{"webhook_url":null}`, nil, 502, "could not be asked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			if c.set != nil {
				c.set(f)
			}
			wantProblem(t, f.do("PATCH", "/v1/predictions/p", c.body, c.header...), c.status, c.detail)
			wantCalls(t, f.fake.Calls("set", "existing"))
		})
	}
}

func TestManagingNeedsTheAPIsConsent(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.put(store.Prediction{API: apiURL, ID: "p", URL: "https://old.example"})
	f.fake.authorise = &upstream.Refusal{Status: 404, Body: []byte("theirs")}
	for _, c := range [][3]string{
		{"PATCH", "/v1/predictions/p", `{"webhook_url":null}`},
		{"GET", "/v1/predictions/p/webhook_deliveries", ""},
		{"POST", "/v1/predictions/p/webhook_deliveries/1/redeliver", ""},
	} {
		wantStatus(t, f.do(c[0], c[1], c[2]), 404, "theirs")
	}
	wantCalls(t, f.fake.Calls("set", "redeliver"))
}

func TestRedeliver(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.put(store.Prediction{API: apiURL, ID: "p", URL: "https://old.example"})
	f.fake.put(store.Prediction{API: apiURL, ID: "off"})
	wantStatus(t, f.do("POST", "/v1/predictions/p/webhook_deliveries/7/redeliver", ""), 202, `{"id":"new-delivery"}`)
	wantProblem(t, f.do("POST", "/v1/predictions/p/webhook_deliveries/7777/redeliver", ""), 404, "no such delivery")
	wantProblem(t, f.do("POST", "/v1/predictions/off/webhook_deliveries/7/redeliver", ""), 409, "disabled")
	wantProblem(t, f.do("POST", "/v1/predictions/nope/webhook_deliveries/7/redeliver", ""), 404, "no such prediction")
	for _, row := range []string{"x", "0", "-1", "07", "99999999999999999999"} {
		wantProblem(t, f.do("POST", "/v1/predictions/p/webhook_deliveries/"+row+"/redeliver", ""), 404, "no such delivery")
	}
}

func TestRedeliveriesAreLimitedPerCaller(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.put(store.Prediction{API: apiURL, ID: "p", URL: "https://old.example"})
	redeliver := func(token string) *httptest.ResponseRecorder {
		return f.do("POST", "/v1/predictions/p/webhook_deliveries/7/redeliver", "", "Authorization", "Bearer "+token)
	}
	for range redeliveriesPerMinute {
		wantStatus(t, redeliver("one"), 202, `{"id":"new-delivery"}`)
	}
	w := redeliver("one")
	wantProblem(t, w, 429, "60 redeliveries a minute")
	if got := w.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q", got)
	}
	if n := len(f.fake.Calls("redeliver")); n != redeliveriesPerMinute {
		t.Errorf("%d redeliveries", n)
	}
	wantStatus(t, redeliver("another"), 202, `{"id":"new-delivery"}`)
}

func TestLimiters(t *testing.T) {
	l := newRedeliveries()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range redeliveriesPerMinute {
		if wait := l.wait("a", now); wait != 0 {
			t.Fatalf("turn %d waits %v", i, wait)
		}
	}
	for range 10 { // asking costs nothing
		if wait := l.wait("a", now); wait != time.Second {
			t.Fatalf("one too many waits %v", wait)
		}
	}
	if wait := l.wait("a", now.Add(time.Second)); wait != 0 {
		t.Fatalf("a second later: %v", wait)
	}
	for i := range 2 * maxLimiters {
		l.wait(strconv.Itoa(i), now)
	}
	if n := l.byIdentity.Len(); n > maxLimiters {
		t.Fatalf("%d callers are remembered", n)
	}
}

func TestDeliveryLogRows(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.put(store.Prediction{API: apiURL, ID: "p"})
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	f.fake.rows = []store.Attempt{
		{ID: 1, Event: event.Started, URL: "https://a", Number: 1, At: at, Error: "no route to host"},
		{ID: 2, Event: event.Started, URL: "https://a", Number: 2, At: at, Status: 200, Response: "OK <3"},
		{ID: 3, Event: event.Completed, URL: "https://a", Number: 1, At: at, Status: 500, Response: "secret", Error: "it answered 500", Exception: true},
	}
	w := f.do("GET", "/v1/predictions/p/webhook_deliveries", "")
	const want = `{"next":null,"previous":null,"results":[` +
		`{"id":"3","event":"prediction.completed","url":"https://a","status":500,"attempt":1,"timestamp":"2026-01-02T03:04:05.006Z","error":"it answered 500"},` +
		`{"id":"2","event":"prediction.started","url":"https://a","status":200,"attempt":2,"timestamp":"2026-01-02T03:04:05.006Z","response":"OK \u003c3"},` +
		`{"id":"1","event":"prediction.started","url":"https://a","status":0,"attempt":1,"timestamp":"2026-01-02T03:04:05.006Z","error":"no route to host"}]}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Fatalf("got %d %s\nwant %s", w.Code, w.Body, want)
	}
	f.fake.put(store.Prediction{API: apiURL, ID: "q"})
	f.fake.rows = nil
	wantStatus(t, f.do("GET", "/v1/predictions/q/webhook_deliveries", ""), 200, `{"next":null,"previous":null,"results":[]}`)
}

func TestDeliveryLogPages(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.put(store.Prediction{API: apiURL, ID: "p"})
	const rows = 3*pageSize + 50
	for i := range rows {
		f.fake.rows = append(f.fake.rows, store.Attempt{ID: int64(i + 1), Event: event.Started})
	}
	get := func(target string) (page logPage) {
		t.Helper()
		u, err := url.Parse(target)
		if err != nil || u.Scheme != "http" || u.Host != "example.com" {
			t.Fatalf("%s is not absolute", target)
		}
		w := f.do("GET", u.RequestURI(), "")
		wantStatus(t, w, 200, "")
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		return page
	}
	seen, want := []string{"http://example.com/v1/predictions/p/webhook_deliveries"}, rows
	for i := 0; ; i++ {
		page := get(seen[i])
		for _, row := range page.Results {
			if row.ID != strconv.Itoa(want) {
				t.Fatalf("row %s comes where %d should", row.ID, want)
			}
			want--
		}
		if (page.Previous == nil) != (i == 0) {
			t.Fatalf("page %d has the previous %v", i, page.Previous)
		}
		if i > 0 && get(*page.Previous).Results[0].ID != get(seen[i-1]).Results[0].ID {
			t.Fatalf("page %d does not lead back", i)
		}
		if page.Next == nil {
			break
		}
		seen = append(seen, *page.Next)
	}
	if want != 0 || len(seen) != 4 {
		t.Fatalf("%d rows are missing from %d pages", want, len(seen))
	}
	for _, bad := range []string{"x", "!!", "MA", "LTE", strings.Repeat("MS4x", 100)} {
		wantProblem(t, f.do("GET", "/v1/predictions/p/webhook_deliveries?cursor="+bad, ""), 422, "cursor")
	}
}

func TestCursorsStayShort(t *testing.T) {
	var c cursor
	for i := range 10 * maxCursor {
		c = c.older(int64(1e15) - int64(i))
		back, err := parseCursor(c.String())
		if err != nil || fmt.Sprint(back) != fmt.Sprint(c) || len(c.String()) > 1200 {
			t.Fatalf("after %d pages: %v, %d bytes", i, err, len(c.String()))
		}
	}
}

func TestPageURLsFollowTheClientsScheme(t *testing.T) {
	r := httptest.NewRequest("GET", "https://api.example/v1/x", nil)
	if got := *pageURL(r, cursor{7}); got != "https://api.example/v1/x?cursor=Nw" {
		t.Fatalf("got %s", got)
	}
	r = newRequest(t.Context(), "GET", "/v1/x", "", "X-Forwarded-Proto", "https")
	if got := *pageURL(r, nil); got != "http://example.com/v1/x" {
		t.Fatalf("a proxy that is not trusted is believed: %s", got)
	}
	r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)[caddyhttp.TrustedProxyVarKey] = true
	if got := *pageURL(r, nil); got != "https://example.com/v1/x" {
		t.Fatalf("a trusted proxy is not believed: %s", got)
	}
}
