// Package delivery_test runs the delivery half as users do: a real Caddy
// between a client and a prediction API, and a receiver written after the
// webhook guide.
package delivery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// secret signs in most tests, for all clients.
const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// token is the client's.
const token = "r8_the_token_of_a_client"

// config is a test's Caddyfile. An option replaces the usual one of its name.
type config struct {
	options []string // of the global option
	handler []string // of replicate_predictions
	ports   []string // egress ports besides PORT_HOOK
	sites   string   // more sites
	// before stands before replicate_predictions, upstream after it in the
	// place of the reverse_proxy.
	before, upstream string
}

// text is the Caddyfile for an API.
//
// The site has no access log: Caddy reads the count of body bytes for it while its
// transport may still look for the end of a body, which the race detector reports.
func (c config) text(api string) string {
	options := override([]string{
		"store sqlite {$DIR}/webhook.db",
		"signing shared",
		"signing_secret {env.E2E_SIGNING_SECRET}",
		"poll 10ms 50ms",
		"retry {\n max_attempts 3\n initial_delay 20ms\n max_delay 50ms\n}",
		"timeout 5s",
		"egress {\n allow_http\n ports {$PORT_HOOK} " + strings.Join(c.ports, " ") + "\n allow 127.0.0.0/8\n}",
	}, c.options)
	handler := override([]string{"api " + api}, c.handler)
	upstream := c.upstream
	if upstream == "" {
		upstream = "reverse_proxy " + strings.TrimSuffix(api, "/v1")
	}
	return fmt.Sprintf(`{
	{$GLOBALS}
	replicate_webhook {
		%s
	}
}
http://127.0.0.1:{$PORT1} {
	%s
	replicate_predictions /v1/* {
		%s
	}
	%s
}
%s
`, options, c.before, handler, upstream, c.sites)
}

// override joins options, of which later ones replace earlier ones. One that is
// empty after its name takes the option away.
func override(defaults, own []string) string {
	name := func(option string) string {
		first, _, _ := strings.Cut(option, " ")
		return first
	}
	var all []string
next:
	for _, option := range defaults {
		for _, o := range own {
			if name(o) == name(option) {
				continue next
			}
		}
		all = append(all, option)
	}
	for _, o := range own {
		if strings.Contains(o, " ") || strings.HasPrefix(o, "serve_") {
			all = append(all, o)
		}
	}
	return strings.Join(all, "\n")
}

// site is a running Caddy before an imitation of the prediction API.
type site struct {
	t *testing.T
	*caddyrun.Env
	client   *http.Client
	logs     *caddyrun.Logs
	api      *fakeapi.API
	upstream *caddyrun.App
	config   config
	// server is Caddy in this process, child one in a process of its own.
	server *caddyrun.Server
	child  *caddyrun.Child
}

// prepare makes the parts that do not depend on how Caddy runs.
func prepare(t *testing.T, o fakeapi.Options, c config) *site {
	t.Helper()
	t.Setenv("E2E_SIGNING_SECRET", secret)
	s := &site{t: t, api: fakeapi.New(o), upstream: caddyrun.NewApp(t), config: c}
	s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(bytes.NewReader(r.Got))
		s.api.ServeHTTP(w, r.Request)
	})
	return s
}

// text is the site's Caddyfile.
func (s *site) text() string { return s.config.text(s.upstream.URL + "/v1") }

// start runs Caddy in this process.
func start(t *testing.T, o fakeapi.Options, c config, globals ...string) *site {
	t.Helper()
	s := prepare(t, o, c)
	s.server = caddyrun.New(t, globals...)
	s.Env, s.client, s.logs = s.server.Env, s.server.Client, s.server.Logs
	s.server.Reload(s.text())
	return s
}

// startChild runs Caddy in a process of its own.
func startChild(t *testing.T, o fakeapi.Options, c config) *site {
	t.Helper()
	s := prepare(t, o, c)
	s.child = caddyrun.NewChild(t, s.text())
	s.Env, s.client, s.logs = s.child.Env, s.child.Client, s.child.Logs
	s.child.Start("PORT1")
	return s
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %v %q", a.status, a.header, a.body) }

// view is a prediction as a client sees it.
type view struct {
	ID        string          `json:"id"`
	Status    string          `json:"status"`
	Output    json.RawMessage `json:"output"`
	URL       *string         `json:"webhook_url"`
	Webhook   string          `json:"webhook_status"`
	Completed bool            `json:"webhook_completed"`
}

// send makes a request of the client's.
func (s *site) send(method, path, body string, header ...string) answer {
	s.t.Helper()
	a, err := s.try(method, path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *site) try(method, path, body string, header ...string) (answer, error) {
	r, err := http.NewRequest(method, s.URL("PORT1", path), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// create creates a prediction with a webhook, and members such as
// `"test_mode":true`.
func (s *site) create(url string, members ...string) view {
	s.t.Helper()
	a := s.send(http.MethodPost, "/v1/predictions", createBody(url, members...))
	if a.status != http.StatusCreated {
		s.t.Fatalf("creating: got %v", a)
	}
	return s.read(a)
}

func createBody(url string, members ...string) string {
	text, _ := json.Marshal(url)
	body := `{"version":"v1","input":{"prompt":"a landscape"},"webhook_url":` + string(text)
	for _, m := range members {
		body += "," + m
	}
	return body + "}"
}

func (s *site) read(a answer) (v view) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		s.t.Fatalf("the answer is no prediction: %v: %v", err, a)
	}
	return v
}

// run creates a prediction that is running until the API's Set.
func (s *site) run(url string, members ...string) view {
	s.t.Helper()
	v := s.create(url, members...)
	s.api.Set(v.ID, "processing", "")
	return v
}

// get asks for a prediction.
func (s *site) get(id string) view {
	s.t.Helper()
	a := s.send(http.MethodGet, "/v1/predictions/"+id, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("asking for %s: got %v", id, a)
	}
	return s.read(a)
}

// settled waits until nothing more will be sent for a prediction.
func (s *site) settled(id string) view {
	s.t.Helper()
	var v view
	s.eventually("webhook_completed of "+id, func() bool {
		v = s.get(id)
		return v.Completed
	})
	return v
}

// ends waits until nothing more will be sent, and compares the status.
func (s *site) ends(id, webhook string) {
	s.t.Helper()
	if v := s.settled(id); v.Webhook != webhook {
		s.t.Fatalf("webhook_status is %q, want %q; its log is %+v", v.Webhook, webhook, s.log(id))
	}
}

// eventually waits for what nothing tells of but asking.
func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(caddyrun.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// row is the guide's WebhookDeliveryLog.
type row struct {
	ID        string `json:"id"`
	Event     string `json:"event"`
	URL       string `json:"url"`
	Status    int    `json:"status"`
	Attempt   int    `json:"attempt"`
	Timestamp string `json:"timestamp"`
	Response  string `json:"response"`
	Error     string `json:"error"`
}

// log is a prediction's delivery log, oldest first.
func (s *site) log(id string) []row {
	s.t.Helper()
	a := s.send(http.MethodGet, "/v1/predictions/"+id+"/webhook_deliveries", "")
	var page struct{ Results []row }
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("asking for the log: %v: %v", err, a)
	}
	rows := page.Results
	for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
		rows[i], rows[j] = rows[j], rows[i]
	}
	return rows
}

// tries are the rows as "event attempt status", oldest first.
func tries(rows []row) string {
	var all []string
	for _, r := range rows {
		all = append(all, fmt.Sprintf("%s %d %d", strings.TrimPrefix(r.Event, "prediction."), r.Attempt, r.Status))
	}
	return strings.Join(all, ", ")
}

// portOf is the port of a server.
func portOf(s *httptest.Server) string { return s.URL[strings.LastIndexByte(s.URL, ':')+1:] }

// hook is a receiver in this process.
type hook struct {
	*caddyrun.App
	t *testing.T
}

func newHook(t *testing.T) *hook { return &hook{caddyrun.NewApp(t), t} }

// hold makes a receiver's answers wait until proceed is closed.
func hold(h *hook, proceed <-chan struct{}) {
	h.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		<-proceed
		w.WriteHeader(http.StatusOK)
	})
}
