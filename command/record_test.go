package command_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestRecordedEventsAreForTheOperatorsMachine: with record, the sender gets the app's
// own response, the event is kept with it, the server does not pass it on again, and
// the command sends it from here, as it was signed.
func TestRecordedEventsAreForTheOperatorsMachine(t *testing.T) {
	app, here := caddyrun.NewApp(t), caddyrun.NewApp(t)
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("thank you"))
	})
	s := siterun.Start(t, siterun.Options{Site: []string{`handle /recorded {
		replicate_webhook {
			secret {env.EDGE_SECRET}
			scope recorded
			record 1h
		}
		reverse_proxy ` + app.URL + `
	}`}})
	secret, err := signature.ParseSecret(siterun.EdgeSecret)
	if err != nil {
		t.Fatal(err)
	}
	const body = `{ "event": "prediction.completed", "prediction": {"id": "p1", "status": "succeeded"} }`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("PORT1", "/recorded"), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	signature.Standard.Sign(r.Header, []signature.Secret{secret}, "msg_1", time.Now(), []byte(body))
	resp, err := s.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Replicate-Inbox") != "" {
		t.Errorf("the sender got %s %v, want the app's response", resp.Status, resp.Header)
	}

	sh := newShell(t, s)
	var page operator.EventPage
	if err := json.Unmarshal([]byte(sh.ask("events", "list", "--scope", "recorded", "--json").ok().out), &page); err != nil || len(page.Results) != 1 {
		t.Fatalf("listed %+v, %v", page, err)
	}
	id := page.Results[0].ID
	sh.ask("events", "show", id).ok("accepted", "prediction.completed", "attempt 1: 202", "thank you")
	sh.ask("events", "replay", id).fails(4, "no body")
	sh.ask("events", "replay", "--all", "--state", "accepted").ok("0 wait again", "1 have no body")
	if n := app.Count(); n != 1 {
		t.Errorf("the app got %d requests, want the sender's", n)
	}

	sh.ask("events", "replay", "--forward-to", here.URL+"/here", id).ok(id + "  200 OK  ")
	got := here.Last()
	if string(got.Got) != body || got.Header.Get("Webhook-Signature") != r.Header.Get("Webhook-Signature") ||
		got.Header.Get("X-Replicate-Event-Id") != id || got.Header.Get("X-Replicate-Replay") != "true" {
		t.Errorf("the machine of the operator got %+v", got)
	}
	sh.ask("events", "show", id).ok("attempt 1: 202")
}
