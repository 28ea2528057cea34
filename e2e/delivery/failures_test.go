package delivery_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestRetriesUntilTheReceiverTakesIt: the same delivery, the same bytes, a
// counted attempt, and the terminal event not before the started one is over.
func TestRetriesUntilTheReceiverTakesIt(t *testing.T) {
	s := start(t, fakeapi.Options{Manual: true}, config{})
	r := s.newReceiver()
	v := s.run(r.url + "?fail=503&times=2")
	for n := 1; n <= 3; n++ {
		r.verified(r.wait(n))
	}
	s.api.Set(v.ID, "succeeded", `"late"`)
	r.verified(r.wait(4))
	s.ends(v.ID, "delivered")
	r.got("started 1, started 2, started 3, completed 1")
	all := r.all()
	for _, again := range all[1:3] {
		if again.SHA256 != all[0].SHA256 || again.Delivery != all[0].Delivery {
			t.Fatalf("an attempt differs: %+v\n%+v", again, all[0])
		}
	}
	rows := s.log(v.ID)
	if got := tries(rows); got != "started 1 503, started 2 503, started 3 200, completed 1 200" {
		t.Fatalf("the log is %s", got)
	}
	if !strings.Contains(rows[0].Error, "503") || rows[2].Error != "" {
		t.Fatalf("the rows' errors are %q and %q", rows[0].Error, rows[2].Error)
	}
}

// TestGivenUpAfterMaxAttempts: the first try and max_attempts retries, then the
// prediction says that its webhook failed.
func TestGivenUpAfterMaxAttempts(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{})
	r := s.newReceiver()
	v := s.create(r.url+"?fail=500", `"webhook_events":["completed"]`)
	s.ends(v.ID, "failed")
	r.got("completed 1, completed 2, completed 3, completed 4")
	if v := s.get(v.ID); !v.Completed || v.Status != "succeeded" {
		t.Fatalf("in the end it is %+v", v)
	}
}

// TestStartedIsSupersededByTheEnd: a started event that keeps failing does not
// hold up the terminal one, and does not come after it.
func TestStartedIsSupersededByTheEnd(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Manual: true}, config{
		ports:   []string{portOf(h.Server)},
		options: []string{"retry {\n max_attempts 100\n initial_delay 10m\n max_delay 10m\n}"},
	})
	h.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.Header.Get("X-Replicate-Event") == "prediction.started" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	v := s.run(h.URL)
	h.Wait(1)
	s.eventually("the first attempt's row", func() bool { return len(s.log(v.ID)) == 1 })
	s.api.Set(v.ID, "failed", "")
	s.ends(v.ID, "delivered")
	if got := tries(s.log(v.ID)); got != "started 1 503, failed 1 200" {
		t.Fatalf("the log is %s", got)
	}
}

// TestGoneDisables: a 410 is a receiver's last word.
func TestGoneDisables(t *testing.T) {
	s := start(t, fakeapi.Options{Manual: true}, config{})
	r := s.newReceiver()
	v := s.run(r.url + "?fail=410")
	s.ends(v.ID, "disabled")
	s.api.Set(v.ID, "succeeded", "")
	s.eventually("the end to be seen", func() bool { return s.get(v.ID).Status == "succeeded" })
	r.got("started 1")
}

// TestReceiversThatCannotBeReached are failed attempts whose errors tell why.
func TestReceiversThatCannotBeReached(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	unknown := httptest.NewUnstartedServer(http.NotFoundHandler())
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	t.Cleanup(unknown.Close)
	cert, key := certificate(t)
	s := start(t, fakeapi.Options{}, config{
		ports: []string{portOfURL("tcp://" + l.Addr().String()), portOf(unknown)},
		options: []string{
			"retry {\n max_attempts 1\n initial_delay 10ms\n}",
			"endpoint {\n breaker off\n}",
		},
	})
	r := s.newReceiver("TLS_CERT="+cert, "TLS_KEY="+key)
	for _, c := range []struct{ name, url, want string }{
		{"resets", "http://" + l.Addr().String(), "connection"},
		{"is no HTTPS server", "https://" + l.Addr().String(), "connection"},
		{"has a certificate of nobody's", unknown.URL, "certificate"},
		{"wants HTTPS", r.url, "connection closed"},
		{"does not resolve", "https://nobody.invalid:" + portOfURL(r.url), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			v := s.create(c.url, `"webhook_events":["completed"]`)
			s.ends(v.ID, "failed")
			rows := s.log(v.ID)
			if len(rows) != 2 || rows[1].Error == "" || !strings.Contains(rows[1].Error, c.want) {
				t.Fatalf("the log is %+v, want errors with %q", rows, c.want)
			}
		})
	}
	r.got("")
}

func portOfURL(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host[strings.LastIndexByte(host, ':')+1:]
}

// TestExpressDefaultLimitIsALogged413: express.json takes 100 kB unless it is
// told otherwise, and the log says what happened to a larger payload.
func TestExpressDefaultLimitIsALogged413(t *testing.T) {
	s := start(t, fakeapi.Options{Output: `"` + strings.Repeat("x", 150_000) + `"`}, config{
		options: []string{"retry {\n max_attempts 1\n initial_delay 10ms\n}"},
	})
	r := s.newReceiver("LIMIT=")
	v := s.create(r.url)
	r.verified(r.wait(1))
	s.ends(v.ID, "failed")
	rows := s.log(v.ID)
	if got := tries(rows); got != "started 1 200, completed 1 413, completed 2 413" {
		t.Fatalf("the log is %s", got)
	}
}

// TestForbiddenReceiversAre422: the API is not charged for a prediction whose
// webhook could not be sent.
func TestForbiddenReceiversAre422(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{options: []string{"egress {\n deny 203.0.113.0/24\n}"}})
	for _, url := range []string{
		"http://example.com/hook", "https://127.0.0.1/hook", "https://0x7f000001/hook", "https://127.1/hook", "https://[::1]/hook",
		"https://user:password@example.com/", "https://example.com/#fragment", "https://example.com:22/", "https://203.0.113.7/",
		"ftp://example.com/", "/hook", "https://" + strings.Repeat("a", 2048) + ".example.com/", "https://１２７.0.0.1/", "https://169.254.169.254/latest/meta-data",
	} {
		a := s.send(http.MethodPost, "/v1/predictions", createBody(url))
		if a.status != http.StatusUnprocessableEntity || a.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, `"detail"`) {
			t.Errorf("%s: got %v", url, a)
		}
	}
	if n := s.api.Creates.Load(); n != 0 {
		t.Fatalf("the API was charged %d times", n)
	}
}
