package replicatewebhook_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	replicatewebhook "github.com/caddy-replicate/replicate-webhook"
)

// FuzzCaddyfile holds that no text makes the parsers panic, that an error says
// where it is, and that what is accepted survives the way through JSON, in which
// Caddy keeps it.
func FuzzCaddyfile(f *testing.F) {
	f.Add("secret {env.X} older\ntolerance 5m\ndedup off\nevents completed failed\nmax_body 8MiB\nscope x", false)
	f.Add("scheme standard\nsecret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\ndedup_key message\non_store_error pass", false)
	f.Add("store sqlite /x/y.db\nsigning shared\nsigning_secret {env.X}\nretry {\nmax_attempts 0\njitter 0.5\n}\nendpoint {\nrate 100/1s\nbreaker off\n}", true)
	f.Add("egress {\nallow_http\nports 443 80\nallow 10.0.0.0/8\n}\npoll 1s 2s 3s\nretention {\ndeliveries 1h\n}\nbody_budget 1GiB", true)
	f.Fuzz(func(t *testing.T, options string, global bool) {
		parse := func() (caddyfile.Unmarshaler, error) {
			tokens, err := caddyfile.Tokenize([]byte("replicate_webhook {\n"+options+"\n}"), "Caddyfile")
			if err != nil {
				return nil, nil // no Caddyfile
			}
			var into caddyfile.Unmarshaler = new(replicatewebhook.Edge)
			if global {
				into = new(replicatewebhook.App)
			}
			return into, into.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
		}
		got, err := parse()
		if err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") && !strings.Contains(err.Error(), "line ") {
				t.Fatalf("%q: the error does not say where it is: %v", options, err)
			}
			return
		}
		if got == nil {
			return
		}
		first, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q: can't be kept as JSON: %v", options, err)
		}
		var again any = new(replicatewebhook.Edge)
		if global {
			again = new(replicatewebhook.App)
		}
		if err := json.Unmarshal(first, again); err != nil {
			t.Fatalf("%q: became %s, which can't be read: %v", options, first, err)
		}
		if second, err := json.Marshal(again); err != nil || string(first) != string(second) {
			t.Fatalf("%q: became %s and then %s, %v", options, first, second, err)
		}
	})
}
