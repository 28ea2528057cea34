package delivery_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

const plainBody = `{"version":"v1","input":{"prompt":"a landscape"}}`

// withCallback is a site to which the API sends its webhooks.
func withCallback(h *hook) config {
	return config{
		ports:   []string{portOf(h.Server)},
		options: []string{"callback http://127.0.0.1:{$PORT1}/callback", "poll 1h 1h"},
		before:  "replicate_callback /callback/*",
	}
}

// keyedCreate sends a create with a key.
func (s *site) keyedCreate(key, body string, header ...string) answer {
	s.t.Helper()
	return s.send(http.MethodPost, "/v1/predictions", body, append([]string{"Idempotency-Key", key}, header...)...)
}

func (s *site) creates(want int64) {
	s.t.Helper()
	if n := s.api.Creates.Load(); n != want {
		s.t.Fatalf("the API has %d creates, want %d", n, want)
	}
}

func (s *site) problem(a answer, status int, detail string) {
	s.t.Helper()
	if a.status != status || !strings.Contains(a.body, detail) || a.header.Get("Content-Type") != "application/problem+json" {
		s.t.Fatalf("got %v, want %d with %q", a, status, detail)
	}
}

// replayed asserts that a is the response first once more.
func (s *site) replayed(a, first answer) {
	s.t.Helper()
	if a.status != first.status || a.body != first.body || a.header.Get("Content-Type") != first.header.Get("Content-Type") || a.header.Get("Idempotent-Replayed") != "true" {
		s.t.Fatalf("got %v, want %v once more", a, first)
	}
	if first.header.Get("Idempotent-Replayed") != "" {
		s.t.Fatalf("the first response counts as replayed: %v", first)
	}
}

// A repeat gets the stored response, whatever the create is about. The API sees one
// create, without the key.
func TestCreateWithAKeyIsMadeOnce(t *testing.T) {
	h := newHook(t)
	for _, c := range []struct {
		name, body string
		api        fakeapi.Options
		config     config
	}{
		{"without a webhook", plainBody, fakeapi.Options{}, config{}},
		{"compressed", plainBody, fakeapi.Options{Gzip: true}, config{}},
		{"with a webhook, polled", createBody(h.URL), fakeapi.Options{Manual: true}, config{ports: []string{portOf(h.Server)}}},
		{"with a webhook, by callback", createBody(h.URL), fakeapi.Options{Manual: true}, withCallback(h)},
		{"with a webhook and the API's own", createBody(h.URL, `"webhook":"https://example.com/hook"`), fakeapi.Options{Manual: true}, config{ports: []string{portOf(h.Server)}}},
		{"with the API's own webhook captured", `{"version":"v1","input":{"prompt":"a landscape"},"webhook":"` + h.URL + `"}`, fakeapi.Options{Manual: true},
			config{ports: []string{portOf(h.Server)}, handler: []string{"capture webhook"}}},
		{"finished at once", createBody(h.URL), fakeapi.Options{Sync: true}, config{ports: []string{portOf(h.Server)}}},
		{"without JSON", "not JSON", fakeapi.Options{}, config{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.api, c.config)
			first := s.keyedCreate("key-1", c.body)
			for range 3 {
				s.replayed(s.keyedCreate("key-1", c.body), first)
			}
			last := s.api.Last()
			if n := len(s.upstream.Seen()); string(last.Body) == "" || last.Header.Get("Idempotency-Key") != "" {
				t.Fatalf("after %d requests the API got %v %s", n, last.Header, last.Body)
			}
			posts := 0
			for _, r := range s.upstream.Seen() {
				if r.Method == http.MethodPost {
					posts++
				}
			}
			if posts != 1 {
				t.Fatalf("the API was asked to create %d times", posts)
			}
			other := s.keyedCreate("key-2", c.body)
			if other.header.Get("Idempotent-Replayed") != "" || other.status == 201 && s.read(other).ID == s.read(first).ID {
				t.Fatalf("another key got %v", other)
			}
		})
	}
}

// Of creates that come at once, one is passed to the API.
func TestCreatesAtOnceWithOneKeyAreOne(t *testing.T) {
	s := start(t, fakeapi.Options{Latency: 50 * time.Millisecond}, config{})
	var mu sync.Mutex
	var first answer
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			// Two bodies at the same moment.
			a, err := s.try(http.MethodPost, "/v1/predictions", plainBody+strings.Repeat(" ", i%2), "Idempotency-Key", "one")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case a.status == http.StatusCreated && first.body == "":
				first = a
			case a.status == http.StatusCreated:
				if a.body != first.body {
					t.Errorf("got %v and %v", first, a)
				}
			case a.status == http.StatusConflict:
				if a.header.Get("Retry-After") != "1" || !strings.Contains(a.body, "still running") {
					t.Errorf("got %v", a)
				}
			case a.status != http.StatusUnprocessableEntity:
				t.Errorf("got %v", a)
			}
		})
	}
	wg.Wait()
	s.creates(1)
	same, other := s.keyedCreate("one", plainBody), s.keyedCreate("one", plainBody+" ")
	if other.status == http.StatusCreated {
		same, other = other, same
	}
	if same.body != first.body || same.header.Get("Idempotent-Replayed") != "true" {
		t.Fatalf("got %v", same)
	}
	s.problem(other, http.StatusUnprocessableEntity, "another body")
	s.creates(1)
}

// A key belongs to a caller and a path.
func TestKeyIsTheCallersOwn(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{})
	seen := make(map[string]bool)
	for _, to := range []struct{ path, token string }{
		{"/v1/predictions", "one"}, {"/v1/predictions", "two"}, {"/v1/models/a/b/predictions", "one"}, {"/v1/trainings", "one"},
	} {
		a := s.send(http.MethodPost, to.path, plainBody, "Authorization", "Bearer "+to.token, "Idempotency-Key", "shared")
		if a.status != http.StatusCreated || seen[s.read(a).ID] {
			t.Fatalf("%v got %v", to, a)
		}
		seen[s.read(a).ID] = true
		s.replayed(s.send(http.MethodPost, to.path, plainBody, "Authorization", "Bearer "+to.token, "Idempotency-Key", "shared"), a)
	}
	s.creates(4)
}

func TestKeysThatAreRefused(t *testing.T) {
	s := start(t, fakeapi.Options{Open: true}, config{handler: []string{"max_body 64KiB"}})
	post := func(body string, header http.Header) answer {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, s.URL("PORT1", "/v1/predictions"), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, string(text)}
	}
	mine := []string{"Bearer one"}
	for name, c := range map[string]struct {
		header http.Header
		detail string
	}{
		"empty":              {http.Header{"Idempotency-Key": {""}, "Authorization": mine}, "has 0 characters"},
		"too long":           {http.Header{"Idempotency-Key": {strings.Repeat("k", 256)}, "Authorization": mine}, "has 256 characters"},
		"two lines":          {http.Header{"Idempotency-Key": {"a", "a"}, "Authorization": mine}, "2 times"},
		"a space":            {http.Header{"Idempotency-Key": {"a b"}, "Authorization": mine}, "position 2"},
		"not ASCII":          {http.Header{"Idempotency-Key": {"ké"}, "Authorization": mine}, "position 2"},
		"nobody's":           {http.Header{"Idempotency-Key": {"a"}}, "needs a caller"},
		"two Authorizations": {http.Header{"Idempotency-Key": {"a"}, "Authorization": {"Bearer one", "Bearer two"}}, "Authorization is given 2 times"},
	} {
		t.Run(name, func(t *testing.T) {
			s.problem(post(plainBody, c.header), http.StatusBadRequest, c.detail)
		})
	}
	large := `{"input":{"a":"` + strings.Repeat("x", 64<<10) + `"}}`
	s.problem(post(large, http.Header{"Idempotency-Key": {"a"}, "Authorization": mine}), http.StatusRequestEntityTooLarge, "65536 bytes")
	s.creates(0)
	if a := post(plainBody, http.Header{"Idempotency-Key": {strings.Repeat("~", 255)}, "Authorization": mine}); a.status != http.StatusCreated {
		t.Fatalf("got %v", a)
	}
	s.logs.Wait(t, "request refused", "Idempotency-Key")
}

// With idempotency off, a key is passed to the API as any header.
func TestKeysAreNotUsedWhereOff(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{handler: []string{"idempotency off"}})
	for range 2 {
		if a := s.keyedCreate("a", plainBody); a.status != http.StatusCreated || a.header.Get("Idempotent-Replayed") != "" {
			t.Fatalf("got %v", a)
		}
	}
	s.creates(2)
	if got := s.api.Last().Header.Get("Idempotency-Key"); got != "a" {
		t.Fatalf("the API got the key %q", got)
	}
}

// Which responses are kept, and which release the key.
func TestResponsesThatAreKept(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Manual: true}, withCallback(h))
	kept := map[int]bool{200: true, 202: true, 204: true, 400: true, 404: true, 413: true, 415: true, 422: true}
	for _, body := range []string{plainBody, createBody(h.URL)} {
		for _, status := range []int{200, 202, 204, 301, 400, 401, 402, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 503} {
			s.api.Inject(fakeapi.Status(http.MethodPost, "predictions", status, 1))
			key := fmt.Sprintf("%d-%d", status, len(body))
			first := s.keyedCreate(key, body)
			second := s.keyedCreate(key, body)
			if first.status != status {
				t.Fatalf("%d: got %v", status, first)
			}
			if kept[status] {
				s.replayed(second, first)
			} else if second.status != http.StatusCreated || second.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("after %d: got %v", status, second)
			}
		}
	}
}

// The URL that was made for the API's webhook is hidden in what is kept, wherever the
// response has it.
func TestKeptResponsesNeverShowTheCallback(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Manual: true}, withCallback(h))
	s.api.Inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		text, _ := io.ReadAll(r.Body)
		_, url, _ := strings.Cut(string(text), `"webhook":"`)
		url, _, _ = strings.Cut(url, `"`)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Location", url)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"id":"a","status":"starting","webhook":%q,"urls":{"webhook":%[1]q}}`, url)
		return true
	})
	first := s.keyedCreate("a", createBody(h.URL))
	second := s.keyedCreate("a", createBody(h.URL))
	s.replayed(second, first)
	for _, a := range []answer{first, second} {
		if a.header.Get("Content-Location") == "" || strings.Contains(a.String(), "/callback/") {
			t.Errorf("got %v", a)
		}
	}
}

// A response of more than 256 KiB is not kept: a repeat gets the prediction as the
// API shows it to the caller then.
func TestLargeResponseIsFetchedAgain(t *testing.T) {
	h := newHook(t)
	output := `"` + strings.Repeat("x", 300<<10) + `"`
	for name, c := range map[string]struct {
		body, max string
	}{
		"without a webhook":              {plainBody, "16MiB"},
		"with a webhook":                 {createBody(h.URL), "16MiB"},
		"over max_body, with a webhook":  {createBody(h.URL), "64KiB"},
		"over max_body, without webhook": {plainBody, "64KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			// A poll would take the fault that is meant for a repeat.
			conf := config{ports: []string{portOf(h.Server)}, options: []string{"poll 1h 1h"}, handler: []string{"max_body " + c.max}}
			s := start(t, fakeapi.Options{Sync: true, Output: output}, conf)
			first := s.keyedCreate("large", c.body)
			if first.status != http.StatusCreated || len(first.body) < 300<<10 {
				t.Fatalf("got %d, %d bytes", first.status, len(first.body))
			}
			gets := s.api.Gets.Load()
			second := s.keyedCreate("large", c.body)
			if second.status != http.StatusCreated || second.header.Get("Idempotent-Replayed") != "true" || s.read(second).ID != s.read(first).ID || len(second.body) < 300<<10 {
				t.Fatalf("got %d %v, %d bytes", second.status, second.header, len(second.body))
			}
			if s.api.Gets.Load() == gets {
				t.Fatal("it was not fetched")
			}
			s.creates(1)
			s.api.Inject(fakeapi.Status(http.MethodGet, "/predictions/", http.StatusForbidden, 1))
			if a := s.keyedCreate("large", c.body); a.status != http.StatusForbidden || a.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("got %v", a)
			}
		})
	}
}

// The client leaves at every byte of the response: what was created is kept for its
// repeats.
func TestClientThatLeavesGetsTheSameResponse(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Manual: true}, config{ports: []string{portOf(h.Server)}})
	for i, body := range []string{plainBody, createBody(h.URL)} {
		whole := s.keyedCreate(fmt.Sprint("whole", i), body)
		step := max(len(whole.body)/20, 1)
		for n := 0; n < len(whole.body)+300; n += step {
			before := s.api.Creates.Load()
			key := fmt.Sprintf("client-%d-%d", i, n)
			for range 3 {
				s.leaveAfter(key, body, n)
			}
			s.eventually("the create", func() bool { return s.keyedCreate(key, body).status == http.StatusCreated })
			s.replayed2(s.keyedCreate(key, body))
			if got := s.api.Creates.Load(); got != before+1 {
				t.Fatalf("after %d bytes there are %d creates", n, got-before)
			}
		}
	}
}

func (s *site) replayed2(a answer) {
	s.t.Helper()
	if a.status != http.StatusCreated || a.header.Get("Idempotent-Replayed") != "true" || s.read(a).ID == "" {
		s.t.Fatalf("got %v", a)
	}
}

// leaveAfter sends a create, reads so many bytes of the response, and resets the
// connection.
func (s *site) leaveAfter(key, body string, n int) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.Addr("PORT1"))
	if err != nil {
		return // it is down
	}
	defer func() { _ = conn.Close() }()
	_ = conn.(*net.TCPConn).SetLinger(0)
	_, err = fmt.Fprintf(conn, "POST /v1/predictions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s",
		token, key, len(body), body)
	if err == nil && n > 0 {
		_, _ = io.CopyN(io.Discard, conn, int64(n))
	}
}

// breaking is an API in front of which connections break after so many bytes of the
// response to a create.
type breaking struct {
	*httptest.Server
	mu    sync.Mutex
	after int // -1: they do not
}

func (b *breaking) breakAfter(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after = n
}

func newBreaking(t *testing.T, s *site) *breaking {
	b := &breaking{after: -1}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		n := b.after
		b.mu.Unlock()
		if n < 0 || r.Method != http.MethodPost {
			s.api.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		s.api.ServeHTTP(rec, r)
		breakOff(w, rec, n)
	}))
	b.Config.SetKeepAlivesEnabled(false) // a failed test leaves no connection to wait for
	t.Cleanup(b.Close)
	return b
}

// breakOff sends so many bytes of a response, all of them if n is negative, and breaks
// the connection.
func breakOff(w http.ResponseWriter, rec *httptest.ResponseRecorder, n int) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	var raw bytes.Buffer
	_ = rec.Result().Write(&raw)
	if n < 0 || n > raw.Len() {
		n = raw.Len()
	}
	_, _ = conn.Write(raw.Bytes()[:n])
}

// The connection to the API breaks at every byte of its response: there is never a
// second create. A repeat gets the prediction if its id is known, or was named by a
// callback, and else learns that it may have been created.
func TestBrokenConnectionIsNeverASecondCreate(t *testing.T) {
	h := newHook(t)
	for _, c := range []struct {
		name, body string
		callback   bool
	}{{"without a webhook", plainBody, false}, {"polled", createBody(h.URL), false}, {"with a callback", createBody(h.URL), true}} {
		t.Run(c.name, func(t *testing.T) {
			conf := config{ports: []string{portOf(h.Server)}}
			if c.callback {
				conf = withCallback(h)
			}
			s := prepare(t, fakeapi.Options{Manual: true}, conf)
			b := newBreaking(t, s)
			s.server = caddyrun.New(t)
			s.Env, s.client, s.logs = s.server.Env, s.server.Client, s.server.Logs
			s.server.Reload(conf.text(b.URL + "/v1"))
			whole := s.keyedCreate("whole", c.body)
			if whole.status != http.StatusCreated {
				t.Fatalf("got %v", whole)
			}
			outcomes := make(map[int]int)
			for n := 0; n < len(whole.body)+200; n += 47 {
				before := s.api.Creates.Load()
				key := fmt.Sprint("broken-", n)
				b.breakAfter(n)
				_, _ = s.try(http.MethodPost, "/v1/predictions", c.body, "Idempotency-Key", key)
				b.breakAfter(-1)
				var a answer
				for range 6 {
					a = s.keyedCreate(key, c.body)
					switch a.status {
					case http.StatusCreated, http.StatusOK:
						ids := s.api.IDs()
						if got := s.read(a).ID; got != ids[len(ids)-1] {
							t.Fatalf("after %d bytes: got %s of %v", n, got, ids)
						}
					case http.StatusConflict:
						if !strings.Contains(a.body, "may have accepted it") && !strings.Contains(a.body, "still running") {
							t.Fatalf("after %d bytes: got %v", n, a)
						}
					default:
						t.Fatalf("after %d bytes: got %v", n, a)
					}
				}
				outcomes[a.status]++
				if c.callback && a.status == http.StatusConflict {
					// What was reserved is there until the API's webhook comes.
					id := s.callBack()
					if a = s.keyedCreate(key, c.body); s.read(a).ID != id || a.header.Get("Idempotent-Replayed") != "true" {
						t.Fatalf("after %d bytes and the webhook: got %v", n, a)
					}
				}
				if got := s.api.Creates.Load(); got != before+1 {
					t.Fatalf("after %d bytes there are %d creates", n, got-before)
				}
			}
			t.Log(outcomes)
			if outcomes[http.StatusConflict] == 0 || outcomes[http.StatusCreated] == 0 {
				t.Fatalf("the outcomes are %v", outcomes)
			}
		})
	}
}

// callBack sends the first webhook of the newest prediction, as the API does, and
// returns the id.
func (s *site) callBack() string {
	s.t.Helper()
	_, callback, _ := strings.Cut(string(s.api.Last().Body), `"webhook":"`)
	callback, _, _ = strings.Cut(callback, `"`)
	ids := s.api.IDs()
	id := ids[len(ids)-1]
	s.callBackAs(id, callback)
	return id
}

// callBackAs sends the first webhook of a prediction.
func (s *site) callBackAs(id, callback string) {
	s.t.Helper()
	resp, err := s.client.Post(callback, "application/json", strings.NewReader(`{"id":"`+id+`","status":"processing","input":{}}`))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("the webhook of %s got %d", id, resp.StatusCode)
	}
}

// A connection that can't be made releases the key, since nothing was sent.
func TestUnreachableAPIReleasesTheKey(t *testing.T) {
	h := newHook(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	for _, extra := range []string{"", "request_buffers 1MiB"} {
		conf := withCallback(h)
		conf.upstream = "reverse_proxy {\n to {header.X-To}\n " + extra + "\n}"
		s := start(t, fakeapi.Options{Manual: true}, conf)
		for i, body := range []string{plainBody, createBody(h.URL)} {
			key := fmt.Sprint(i)
			for range 2 {
				if a := s.keyedCreate(key, body, "X-To", addr); a.status != http.StatusBadGateway {
					t.Fatalf("got %v", a)
				}
			}
			if a := s.keyedCreate(key, body, "X-To", s.upstream.Addr()); a.status != http.StatusCreated || a.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("got %v", a)
			}
		}
		s.creates(2)
	}
}

// A crash between the API's response and the commit leaves the outcome unknown. The
// prediction's first webhook settles it.
func TestCrashBeforeTheCommitIsNeverASecondCreate(t *testing.T) {
	h := newHook(t)
	for _, c := range []struct {
		name, body string
		callback   bool
	}{{"without a webhook", plainBody, false}, {"with a callback", createBody(h.URL), true}} {
		t.Run(c.name, func(t *testing.T) {
			conf := config{ports: []string{portOf(h.Server)}}
			if c.callback {
				conf = withCallback(h)
			}
			s := startChild(t, fakeapi.Options{Manual: true}, conf)
			created, proceed := make(chan struct{}), make(chan struct{})
			s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
				r.Body = io.NopCloser(bytes.NewReader(r.Got))
				if r.Method != http.MethodPost || s.api.Creates.Load() > 0 {
					s.api.ServeHTTP(w, r.Request)
					return
				}
				s.api.ServeHTTP(httptest.NewRecorder(), r.Request)
				close(created)
				<-proceed
			})
			go func() {
				<-created
				s.child.Kill()
				close(proceed)
			}()
			if a, err := s.try(http.MethodPost, "/v1/predictions", c.body, "Idempotency-Key", "crash"); err == nil {
				t.Fatalf("got %v", a)
			}
			<-proceed
			s.child.Start("PORT1")
			for range 2 {
				a := s.keyedCreate("crash", c.body)
				s.problem(a, http.StatusConflict, "may have accepted it")
				if (a.header.Get("Retry-After") != "") != c.callback {
					t.Fatalf("got %v", a)
				}
			}
			s.creates(1)
			if !c.callback {
				return
			}
			id := s.callBack()
			a := s.keyedCreate("crash", c.body)
			if a.header.Get("Idempotent-Replayed") != "true" || s.read(a).ID != id {
				t.Fatalf("got %v", a)
			}
			if v := s.read(a); v.URL == nil || *v.URL != h.URL {
				t.Fatalf("got %v", a)
			}
			s.creates(1)
		})
	}
}

// While the store is away, no create with a key is passed to the API.
func TestKeysWithoutAStoreAreRefused(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{options: []string{"store sqlite {$DIR}/store/webhook.db"}})
	first := s.keyedCreate("a", plainBody)
	if err := os.Rename(s.Path("store"), s.Path("away")); err != nil {
		t.Fatal(err)
	}
	before := s.api.Creates.Load()
	for _, key := range []string{"b", "a", "b"} {
		a := s.keyedCreate(key, plainBody)
		s.problem(a, http.StatusServiceUnavailable, "can't be stored")
		if a.header.Get("Retry-After") == "" {
			t.Fatalf("got %v", a)
		}
	}
	if a := s.send(http.MethodPost, "/v1/predictions", plainBody); a.status != http.StatusCreated {
		t.Fatalf("without a key: got %v", a)
	}
	if n := s.api.Creates.Load(); n != before+1 {
		t.Fatalf("there are %d creates", n-before)
	}
	if err := os.Rename(s.Path("away"), s.Path("store")); err != nil {
		t.Fatal(err)
	}
	s.eventually("the store to be back", func() bool {
		a := s.keyedCreate("a", plainBody)
		return a.status == http.StatusCreated && a.body == first.body
	})
}

// A key lives for as long as idempotency says, by the store's clock.
func TestKeyExpires(t *testing.T) {
	s := prepare(t, fakeapi.Options{}, config{handler: []string{"idempotency 1h"}, options: []string{"store clocked {$DIR}/webhook.db"}})
	s.server = caddyrun.New(t)
	s.Env, s.client, s.logs = s.server.Env, s.server.Client, s.server.Logs
	clock := caddyrun.NewClock(t, s.Path("webhook.db"))
	s.server.Reload(s.text())
	first := s.keyedCreate("a", plainBody)
	clock.Ahead(59 * time.Minute)
	clock.Purge(t)
	s.replayed(s.keyedCreate("a", plainBody), first)
	clock.Ahead(61 * time.Minute)
	s.eventually("the key to expire", func() bool {
		clock.Purge(t)
		return s.keyedCreate("a", plainBody).header.Get("Idempotent-Replayed") == ""
	})
	s.creates(2)
}

// The recipe for npm replicate, as documented: the connection breaks before the
// response to each first attempt arrives, and one prediction is created.
func TestRecipeOfTheOfficialClientCreatesOnce(t *testing.T) {
	page, err := os.ReadFile("../../docs/caddyfile.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, found := strings.Cut(string(page), "<!-- client: once.mjs -->\n```js\n")
	program, _, ended := strings.Cut(program, "```\n")
	if !found || !ended {
		t.Fatal("docs/caddyfile.md has no once.mjs")
	}
	s := start(t, fakeapi.Options{}, config{})
	var mu sync.Mutex
	seen := make(map[string]int)
	front := caddyrun.NewApp(t)
	front.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		a, err := s.try(r.Method, r.URL.Path, string(r.Got), "Idempotency-Key", r.Header.Get("Idempotency-Key"))
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		seen[r.Header.Get("Idempotency-Key")]++
		first := seen[r.Header.Get("Idempotency-Key")] == 1
		mu.Unlock()
		if first {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	})
	cmd := exec.Command(testenv.NeedNode(t, "."), "--input-type=module", "-e", program)
	cmd.Env = append(os.Environ(), "REPLICATE_API_TOKEN="+token, "BASE_URL="+front.URL+"/v1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.creates(1)
	if id := s.api.IDs()[0]; strings.TrimSpace(string(out)) != id || len(seen) != 1 {
		t.Fatalf("it printed %q, the API has %s, the keys are %v", out, id, seen)
	}
}

// Of a response, nothing is kept in plain text but its status and the prediction's id.
func TestKeptResponsesAreSealed(t *testing.T) {
	s := prepare(t, fakeapi.Options{Output: `"an output that nobody should read"`, Sync: true}, config{})
	s.server = caddyrun.New(t)
	s.Env, s.client, s.logs = s.server.Env, s.server.Client, s.server.Logs
	s.server.Reload(s.text())
	s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		w.Header().Set("Set-Cookie", "session=a-cookie-of-the-api")
		r.Body = io.NopCloser(bytes.NewReader(r.Got))
		s.api.ServeHTTP(w, r.Request)
	})
	first := s.keyedCreate("a-key-that-is-secret", plainBody)
	second := s.keyedCreate("a-key-that-is-secret", plainBody)
	s.replayed(second, first)
	if first.header.Get("Set-Cookie") == "" || second.header.Get("Set-Cookie") != "" || !strings.Contains(first.body, "nobody should read") {
		t.Fatalf("got %v, then %v", first, second)
	}
	for path, content := range s.Files() {
		for _, secret := range []string{"nobody should read", "a-key-that-is-secret", "a landscape", token, "a-cookie-of-the-api"} {
			if strings.Contains(content, secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
	}
	if logs := s.logs.String(); strings.Contains(logs, "a-key-that-is-secret") {
		t.Errorf("the log holds the key: %s", logs)
	}
}
