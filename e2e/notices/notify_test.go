package notices_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/notice"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// chatPath is that of a chat tool, which is a secret.
const chatPath = "/services/T0/ch4tsecret"

// messages returns the messages of a kind that were acknowledged, and how often it
// happened by them. Each attempt of one has the same ID.
func messages(t *testing.T, chat *caddyrun.App, refused func(n int) bool, secret string, kind notice.Kind) (list []notice.Message, sum int) {
	t.Helper()
	parsed, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range chat.Seen() {
		claim, err := signature.ParseHeaders(r.Header, signature.Standard)
		if err == nil {
			_, err = claim.Verify([]signature.Secret{parsed}, r.Got, nil)
		}
		if err != nil {
			t.Errorf("not signed for notices: %v, %v", r.Header, err)
		}
		var m notice.Message
		if err := json.Unmarshal(r.Got, &m); err != nil || m.Text == "" || r.URL.Path != chatPath {
			t.Fatalf("%s %s: %v", r.URL, r.Got, err)
		}
		if id := r.Header.Get("Webhook-Id"); m.What == kind && !refused(r.N) {
			if seen[id] {
				t.Errorf("%s was sent again after it was received", id)
			}
			seen[id] = true
			list = append(list, m)
			sum += m.Count
		}
	}
	return list, sum
}

// TestNotify: of an endpoint that dies and recovers there is one message of each kind in
// a window, signed, retried and with the right counts; what is left is told when the
// option is removed.
func TestNotify(t *testing.T) {
	chat := caddyrun.NewApp(t)
	t.Setenv("NOTIFY_URL", chat.URL+chatPath)
	// The first attempt is refused, and each message has two.
	refused := func(n int) bool { return n == 1 }
	chat.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if refused(r.N) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	before := count(t.Name(), "replicate_webhook_failed") // of runs before this one
	s := siterun.Start(t, siterun.Options{Globals: []string{"events {\n on * recorder " + t.Name() + "\n}"}})
	config := func(more ...string) string {
		text := s.Config(siterun.Options{App: append(more, "endpoint {\n breaker 3 10ms\n}")})
		return strings.Replace(text, "ports ", "ports "+chat.Addr()[strings.LastIndexByte(chat.Addr(), ':')+1:]+" ", 1)
	}
	s.Reload(config("notify {env.NOTIFY_URL} failed endpoint_open endpoint_closed rejected {\n every 1h\n}"))
	secret, err := s.Admin.Secret(t.Context(), "notices")
	if err != nil {
		t.Fatal(err)
	}
	told := func(kind notice.Kind) ([]notice.Message, int) {
		return messages(t, chat, refused, secret.Secret, kind)
	}

	s.Hook.Answer(func(http.ResponseWriter, *caddyrun.Request) { panic(http.ErrAbortHandler) })
	const predictions = 4
	for range predictions {
		s.Create(secretPath)
	}
	status := s.Settled(2 * predictions)
	failed := status.Deliveries.Failed
	if failed < 2 {
		t.Fatalf("%d deliveries failed", failed)
	}
	for _, kind := range []notice.Kind{notice.Failed, notice.EndpointOpen} {
		caddyrun.Until(t, "a message of "+string(kind), func() bool { _, n := told(kind); return n > 0 })
	}
	if list, n := told(notice.Failed); n != 1 || list[0].Endpoint != s.Hook.URL || !strings.HasPrefix(list[0].Example, "dlv_") {
		t.Errorf("got %+v", list)
	}
	if list, n := told(notice.EndpointOpen); n != 1 || list[0].Endpoint != s.Hook.URL || list[0].Error != "connection closed" {
		t.Errorf("got %+v", list)
	}

	s.Hook.AnswerStatus(http.StatusOK)
	s.Create(secretPath)
	s.Settled(2*predictions + 2)
	forge(t, s)
	for _, kind := range []notice.Kind{notice.EndpointClosed, notice.Rejected} {
		caddyrun.Until(t, "a message of "+string(kind), func() bool { _, n := told(kind); return n > 0 })
	}
	if list, _ := told(notice.Rejected); list[0].Reason != "headers_missing" || list[0].Status != http.StatusUnauthorized || list[0].Example != "127.0.0.1" {
		t.Errorf("got %+v", list)
	}

	// A window outlives the configuration it began in, and ends with the option.
	s.Reload(config("workers 17", "notify {env.NOTIFY_URL} failed {\n every 1h\n}"))
	if _, n := told(notice.Failed); n != 1 {
		t.Errorf("told of %d in one window", n)
	}
	failed = s.Status().Deliveries.Failed
	// What is told is counted before its event is emitted.
	caddyrun.Until(t, "all failures to be counted", func() bool { return count(t.Name(), "replicate_webhook_failed")-before == failed })
	s.Reload(config())
	caddyrun.Until(t, "the rest of the window", func() bool { _, n := told(notice.Failed); return n == failed })
	if list, _ := told(notice.Failed); len(list) != 2 {
		t.Errorf("%d messages: %+v", len(list), list)
	}

	all := s.Logs.String()
	for _, r := range chat.Seen() {
		for _, secret := range []string{"s3cret", "hello", "payload of a forger", siterun.Token, "whsec_", "ch4tsecret"} {
			if strings.Contains(string(r.Got), secret) {
				t.Errorf("%q is in a message: %s", secret, r.Got)
			}
		}
	}
	if strings.Contains(all, "ch4tsecret") {
		t.Error("the URL is in the log")
	}
	if len(s.Logs.Lines("a notice was not received: it is sent again")) == 0 {
		t.Error("that the first was refused is not logged")
	}
}
