package predictions

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// FuzzCaddyfile holds that no text makes the parser panic, that an error says
// where it is, and that what is accepted survives the way through JSON.
func FuzzCaddyfile(f *testing.F) {
	f.Add("api https://api.example/v1\napi_token {env.X}\nprefix /v1\ntest_mode off\nmax_body 1MiB\nserve_signing_secret")
	f.Add("api off")
	f.Fuzz(func(t *testing.T, options string) {
		tokens, err := caddyfile.Tokenize([]byte(predictionsDirective+" {\n"+options+"\n}"), "Caddyfile")
		if err != nil {
			return
		}
		var h, again Handler
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") && !strings.Contains(err.Error(), "line ") {
				t.Fatalf("%q: the error does not say where it is: %v", options, err)
			}
			return
		}
		first, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("%q: became %s, which can't be read: %v", options, first, err)
		}
		if second, err := json.Marshal(&again); err != nil || string(first) != string(second) {
			t.Fatalf("%q: became %s and then %s, %v", options, first, second, err)
		}
		_ = h.check()
	})
}
