// Package senders_test has senders of Standard Webhooks other than Replicate post to
// a running Caddy, and verifies behind it what they sent by their own libraries.
package senders_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// sent is what became of a webhook.
type sent struct {
	Name      string
	Status    int
	Duplicate string
	Sent      string
	// Got is what the app got, nil if it was not asked.
	Got *struct {
		Headers    map[string]string
		Body, Type string
		Verified   bool
		Error      string
	}
}

// TestSendersOfStandardWebhooks: with payload any and the sender's secret alone, the
// edge takes what OpenAI, Svix and Gemini send, once, and their own libraries verify
// it behind the edge.
func TestSendersOfStandardWebhooks(t *testing.T) {
	node := testenv.NeedNode(t, ".")
	t.Setenv("SENDERS_SECRET", secret)
	s := caddyrun.Start(t, `{
	{$GLOBALS}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks {
		replicate_webhook {
			secret {env.SENDERS_SECRET}
			payload any
		}
		reverse_proxy 127.0.0.1:{$PORT_APP}
	}
	handle {
		respond 404
	}
}
`)
	cmd := exec.Command(node, "senders.mjs")
	cmd.Env = append(os.Environ(), "NODE_ENV=production", "SECRET="+secret, "EDGE="+s.URL("PORT1", "/webhooks"), fmt.Sprint("APP_PORT=", s.Port("PORT_APP")))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	want := []struct {
		name, event string
		duplicate   bool
	}{
		{"openai", "response.completed", false},
		{"openai, again", "", true},
		{"svix", "invoice.paid", false},
		{"svix, again", "", true},
		{"gemini", "batch.succeeded", false},
		{"no type", "", false},
	}
	lines := json.NewDecoder(bytes.NewReader(out))
	for _, w := range want {
		var got sent
		if err := lines.Decode(&got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if got.Name != w.name || got.Status != 200 || (got.Duplicate == "true") != w.duplicate || (got.Got == nil) != w.duplicate {
			t.Errorf("%s: got %+v", w.name, got)
			continue
		}
		if w.duplicate {
			continue
		}
		event, named := got.Got.Headers["x-replicate-event"]
		_, prediction := got.Got.Headers["x-replicate-prediction-id"]
		if !got.Got.Verified || got.Got.Body != got.Sent || event != w.event || named != (w.event != "") || prediction || got.Got.Type != w.event {
			t.Errorf("%s: the app got %+v", w.name, got.Got)
		}
	}
	if lines.More() {
		t.Errorf("there is more in %s", out)
	}
}
