// Package siterun runs the delivery half for tests: a Caddy in this process, in
// front of an imitation of a prediction API, with a receiver of webhooks and a
// client for the admin API.
package siterun

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook" // what the configuration names
	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

const (
	// EdgeSecret signs what comes to the edge at /webhooks/replicate.
	EdgeSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	// Token is the clients'.
	Token = "r8_the_token_of_a_client"
	// Client is the owner of the token, as the tracker names it, behind the
	// API's URL.
	Client = " user/tester"
)

// Site is a running Caddy with what is around it.
type Site struct {
	*caddyrun.Server
	// API is the prediction API behind PORT1, App the app behind the edge
	// at PORT2, and Hook the receiver of webhooks.
	API       *fakeapi.API
	App, Hook *caddyrun.App
	// Admin speaks to the admin endpoint, at AdminAddr.
	Admin     *client.Client
	AdminAddr string

	t        testing.TB
	upstream *caddyrun.App
}

// Options say how a site is made.
type Options struct {
	API fakeapi.Options
	// App are options of replicate_webhook, Site more directives of the
	// site at PORT1, and Globals more global options.
	App, Site, Globals []string
}

// Start runs Caddy.
func Start(t testing.TB, o Options) *Site {
	t.Helper()
	t.Setenv("EDGE_SECRET", EdgeSecret)
	s := &Site{t: t, API: fakeapi.New(o.API), App: caddyrun.NewApp(t), Hook: caddyrun.NewApp(t), upstream: caddyrun.NewApp(t)}
	s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(bytes.NewReader(r.Got))
		s.API.ServeHTTP(w, r.Request)
	})
	s.Server = caddyrun.New(t, append([]string{"admin 127.0.0.1:{$PORT_ADMIN}", "persist_config off"}, o.Globals...)...)
	s.AdminAddr = s.Addr("PORT_ADMIN")
	var err error
	if s.Admin, err = client.New(s.AdminAddr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Admin.Close)
	s.Reload(s.Config(o))
	return s
}

// Config returns the site's Caddyfile. Retries are few and quick.
func (s *Site) Config(o Options) string {
	return s.Expand(strings.ReplaceAll(fmt.Sprintf(`{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
		poll 10ms 50ms
		retry {
			max_attempts 1
			initial_delay 10ms
		}
		egress {
			allow_http
			ports HOOK_PORT
			allow 127.0.0.0/8
		}
		%s
	}
}
http://127.0.0.1:{$PORT1} {
	%s
	replicate_predictions /v1/* {
		api %s/v1
	}
	reverse_proxy %s
}
http://127.0.0.1:{$PORT2} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.EDGE_SECRET}
		}
		reverse_proxy %s
	}
	handle {
		respond 404
	}
}
`, strings.Join(o.App, "\n"), strings.Join(o.Site, "\n"), s.upstream.URL, s.upstream.URL, s.App.URL),
		"HOOK_PORT", s.Hook.Addr()[strings.LastIndexByte(s.Hook.Addr(), ':')+1:]))
}

// APIURL returns the prediction API's base URL, which the tracker puts before
// the names of clients.
func (s *Site) APIURL() string { return s.upstream.URL + "/v1" }

// Create creates a prediction whose webhook goes to a path of the receiver, and
// returns its id. The header is added to the request.
func (s *Site) Create(path string, header ...string) string {
	s.t.Helper()
	body := fmt.Sprintf(`{"version":"v1","input":{"prompt":"hello"},"webhook_url":%q}`, s.Hook.URL+path)
	req, err := http.NewRequest(http.MethodPost, s.URL("PORT1", "/v1/predictions"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+Token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	var created struct {
		ID string `json:"id"`
	}
	if err != nil || resp.StatusCode != http.StatusCreated || json.Unmarshal(answer, &created) != nil || created.ID == "" {
		s.t.Fatalf("create: %d %s %v", resp.StatusCode, answer, err)
	}
	return created.ID
}

// Status asks for the status.
func (s *Site) Status() operator.Status {
	s.t.Helper()
	st, err := s.Admin.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// patience is the time that Until waits, long enough for a busy machine.
const patience = 4 * caddyrun.Patience

// Until requests the status until ok accepts it, and returns it.
func (s *Site) Until(what string, ok func(*operator.Status) bool) operator.Status {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		st := s.Status()
		if ok(&st) {
			return st
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s: %+v", what, st)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Settled waits until nothing is pending, with n deliveries that ended.
func (s *Site) Settled(n int) operator.Status {
	s.t.Helper()
	return s.Until(fmt.Sprintf("%d deliveries to end", n), func(st *operator.Status) bool {
		d := st.Deliveries
		return d.Pending == 0 && st.TrackedPredictions == 0 && d.Delivered+d.Failed+d.Superseded+d.Canceled >= n
	})
}
