package security_test

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// canary is a secret that is looked for.
type canary struct{ name, value string }

// forms are the ways in which it could show.
func (c canary) forms() [][]byte {
	v := []byte(c.value)
	forms := [][]byte{v, []byte(base64.StdEncoding.EncodeToString(v)), []byte(base64.RawURLEncoding.EncodeToString(v)), []byte(hex.EncodeToString(v))}
	if rest, ok := strings.CutPrefix(c.value, "whsec_"); ok {
		if key, err := base64.StdEncoding.DecodeString(rest); err == nil {
			forms = append(forms, key, []byte(rest), []byte(hex.EncodeToString(key)))
		}
	}
	return forms
}

// planted are the secrets of one configuration.
type planted []canary

func (p planted) value(name string) string {
	for _, c := range p {
		if c.name == name {
			return c.value
		}
	}
	panic("no canary " + name)
}

// absent wants none of the secrets in a text.
func (p planted) absent(t *testing.T, where string, text []byte) {
	t.Helper()
	for _, c := range p {
		for _, form := range c.forms() {
			if i := bytes.Index(text, form); i >= 0 {
				t.Errorf("%s holds %s: …%q…", where, c.name, text[max(0, i-80):min(len(text), i+20)])
			}
		}
	}
}

// request makes a request and wants none of the secrets in its answer. Headers
// are pairs.
func (p planted) request(t *testing.T, client *http.Client, method, url, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := do(client, r)
	if err != nil {
		t.Fatal(err)
	}
	p.absent(t, "the answer to "+method+" "+url, fmt.Appendf(nil, "%v %s", a.header, a.body))
	return a
}

// TestSecretsAppearNowhere gives every option that takes a secret a value to look
// for, by environment and by file, and has a Caddy of its own do all it can do:
// nothing that leaves it, and no file that it writes, holds any of them.
func TestSecretsAppearNowhere(t *testing.T) {
	for name, shared := range map[string]bool{"shared key, api_token and seal_key": true, "client's key and credentials": false} {
		t.Run(name, func(t *testing.T) { lookForSecrets(t, shared) })
	}
}

func lookForSecrets(t *testing.T, shared bool) {
	secrets := planted{
		{"the edge's secret", "whsec_Y2FuYXJ5LW9mLXRoZS1lZGdlLW9uZQ=="},
		{"the edge's older secret", "canary of the edge, the older one"},
		{"signing_secret", "whsec_Y2FuYXJ5LW9mLXNpZ25pbmctc2VjcmV0"},
		{"the older signing_secret", "whsec_Y2FuYXJ5LW9mLXNpZ25pbmctb2xkZXI="},
		{"seal_key", "canary of the seal key, long enough"},
		{"the older seal_key", "canary of the older seal key, long"},
		{"api_token", "r8_canary_of_the_api_token"},
		{"the client's token", "r8_canary_of_a_client"},
	}
	api := fakeapi.New(fakeapi.Options{Accounts: map[string]string{secrets.value("the client's token"): "alice", secrets.value("api_token"): "operator"}, Manual: true})
	upstream := caddyrun.NewApp(t)
	upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(bytes.NewReader(r.Got))
		api.ServeHTTP(w, r.Request)
	})
	app, receiver := caddyrun.NewApp(t), caddyrun.NewApp(t)
	receiver.AnswerStatus(http.StatusInternalServerError)
	collector := caddyrun.NewApp(t) // of OpenTelemetry spans

	options, handler := "signing per_client", ""
	if shared {
		options = "signing shared\nsigning_secret {env.C_SIGN} {file.{$DIR}/secrets/sign}\nseal_key {file.{$DIR}/secrets/seal} {env.C_SEAL_OLD}"
		handler = "api_token {file.{$DIR}/secrets/token}"
	}
	text := fmt.Sprintf(`{
	{$GLOBALS}
	metrics
	replicate_webhook {
		store sqlite {$DIR}/store/webhook.db
		poll 20ms 50ms
		retry {
			max_attempts 1
			initial_delay 10ms
		}
		egress {
			allow_http
			ports %s
			allow 127.0.0.0/8
		}
		%s
	}
}
http://127.0.0.1:{$PORT1} {
	log
	tracing {
		span canary
	}
	replicate_dashboard /_webhooks/* {
		public
	}
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.C_EDGE} {file.{$DIR}/secrets/edge}
		}
		reverse_proxy %s
	}
	handle {
		replicate_predictions {
			api %s/v1
			%s
		}
		reverse_proxy %s
	}
}
`, receiver.Addr()[strings.LastIndexByte(receiver.Addr(), ':')+1:], options, app.Addr(), upstream.URL, handler, upstream.URL)
	c := caddyrun.NewChild(t, text, "admin 127.0.0.1:{$PORT_ADMIN}")
	c.Configure(c.Expand(text)) // twice: the global options have a port, too
	c.Environ = []string{
		"C_EDGE=" + secrets.value("the edge's secret"), "C_SIGN=" + secrets.value("signing_secret"), "C_SEAL_OLD=" + secrets.value("the older seal_key"),
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_BSP_SCHEDULE_DELAY=20",
	}
	if err := os.MkdirAll(c.Path("secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, name := range map[string]string{"edge": "the edge's older secret", "sign": "the older signing_secret", "seal": "seal_key", "token": "api_token"} {
		if err := os.WriteFile(c.Path("secrets", file), []byte(secrets.value(name)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Start("PORT1")
	get := func(method, url, body string, header ...string) answer {
		t.Helper()
		return secrets.request(t, c.Client, method, url, body, header...)
	}
	// The edge: genuine, twice; forged; not JSON.
	w := replicate(t, secrets.value("the edge's secret"), payload("p1", time.Now()))
	for _, w := range []hook{w, w, w.withBody("{"), replicate(t, unknown, w.body), replicate(t, secrets.value("the edge's older secret"), payload("p2", time.Now()))} {
		get(http.MethodPost, c.URL("PORT1", route), w.body, "X-Replicate-Signature", w.header.Get("X-Replicate-Signature"))
	}
	// The client: creates that are taken and refused, and all it may ask for.
	bearer := []string{"Authorization", "Bearer " + secrets.value("the client's token")}
	create := func(url, more string) answer {
		return get(http.MethodPost, c.URL("PORT1", "/v1/predictions"), fmt.Sprintf(`{"version":"v","input":{},"webhook_url":%q%s}`, url, more), bearer...)
	}
	const path = "/a-secret-of-the-receiver"
	a := create(receiver.URL+path, "")
	if a.status != http.StatusCreated {
		t.Fatalf("creating: got %v", a)
	}
	var p struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatal(err)
	}
	create("https://10.0.0.1/", "")
	create(receiver.URL, `,"test_mode":true`)
	paths := []string{"/v1/predictions/" + p.ID, "/v1/predictions/" + p.ID + "/webhook_deliveries", "/v1/predictions/nobody", "/v1/account"}
	for _, path := range paths {
		get(http.MethodGet, c.URL("PORT1", path), "", bearer...)
		get(http.MethodGet, c.URL("PORT1", path), "", "Authorization", "Bearer wrong")
	}
	get(http.MethodPatch, c.URL("PORT1", paths[0]), `{"webhook_events":["completed"]}`, bearer...)

	// While the prediction runs its client's credential is kept, sealed.
	rows := credentials(t, c.Path("store", "webhook.db"), p.ID)
	if shared != (rows == nil) {
		t.Errorf("the stored credential has %d bytes, with an api_token %v", len(rows), shared)
	}
	secrets.absent(t, "the stored credential", rows)
	api.Set(p.ID, "succeeded", "")
	receiver.Wait(2) // the first attempt and its retry, of a test's events or these
	caddyrun.Until(t, "the prediction's end", func() bool {
		return strings.Contains(get(http.MethodGet, c.URL("PORT1", paths[0]), "", bearer...).body, `"webhook_completed":true`)
	})
	if left := credentials(t, c.Path("store", "webhook.db"), p.ID); left != nil {
		t.Errorf("%d bytes of the credential are left after the terminal event", len(left))
	}

	// The operator.
	for _, path := range []string{
		"/config/", "/config/apps/replicate_webhook", "/metrics", "/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2",
		"/replicate_webhook/status", "/replicate_webhook/predictions", "/replicate_webhook/predictions/" + p.ID, "/replicate_webhook/deliveries",
		"/replicate_webhook/endpoints", "/replicate_webhook/nothing",
	} {
		get(http.MethodGet, c.URL("PORT_ADMIN", path), "")
	}
	for _, path := range []string{"", "predictions", "deliveries", "endpoints", "predictions/" + p.ID} {
		get(http.MethodGet, c.URL("PORT1", "/_webhooks/"+path), "")
	}
	for _, args := range [][]string{
		{"adapt", "--config", c.Path("Caddyfile")}, {"validate", "--config", c.Path("Caddyfile")}, {"reload", "--force", "--config", c.Path("Caddyfile"), "--address", c.Addr("PORT_ADMIN")},
		{"replicate-webhook", "status", "--address", c.Addr("PORT_ADMIN")}, {"replicate-webhook", "status", "--json", "--address", c.Addr("PORT_ADMIN")},
	} {
		out, err := c.Command(args...).CombinedOutput()
		if err != nil {
			t.Errorf("caddy %v: %v\n%s", args, err, out)
		}
		secrets.absent(t, "the output of caddy "+args[0], out)
	}
	c.Stop()
	secrets.absent(t, "the log", []byte(c.Logs.String()))
	if lines := c.Logs.Lines(path); len(lines) > 0 {
		t.Errorf("the log holds the path of a webhook_url: %s", lines[0])
	}
	if len(c.Logs.Lines(`"level":"debug"`)) == 0 {
		t.Error("the log is not at DEBUG")
	}
	var spans []byte
	for _, r := range collector.Seen() {
		spans = append(spans, r.Got...)
	}
	secrets.absent(t, "a trace", spans)
	if bytes.Contains(spans, []byte(path)) {
		t.Error("a trace holds the path of a webhook_url")
	}
	for _, want := range []string{"canary", "deliver "} {
		if !bytes.Contains(spans, []byte(want)) {
			t.Errorf("there is no span %q to look into", want)
		}
	}
	files := c.Files()
	for path, text := range files {
		if !strings.HasPrefix(path, "/secrets/") {
			secrets.absent(t, path, []byte(text))
		}
	}
	for _, want := range []string{"/store/webhook.db", "/config/caddy/autosave.json"} {
		if files[want] == "" {
			t.Errorf("there is no %s to look into", want)
		}
	}
	// What is kept is kept for its owner alone.
	dir := c.Path("store")
	mode(t, dir, 0o700)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		mode(t, filepath.Join(dir, e.Name()), 0o600)
	}
}

func mode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %#o, want %#o", path, got, want)
	}
}

// credentials reads what a copy of the store keeps of a prediction's client.
func credentials(t *testing.T, path, id string) (credential []byte) {
	t.Helper()
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		caddyrun.CopyFile(t, path+suffix, filepath.Join(dir, "copy.db"+suffix))
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRow("SELECT credential FROM predictions WHERE id = ?", id).Scan(&credential); err != nil {
		t.Fatal(err)
	}
	return credential
}
