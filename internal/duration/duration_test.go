package duration_test

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
)

// TestUnmarshalJSON: Caddy's own type reads the same.
func TestUnmarshalJSON(t *testing.T) {
	for _, text := range []string{
		`"10s"`, `"1d"`, `"1.5d"`, `"1d12h"`, `"-1d"`, `"2h1d3m"`, `"0"`, `"1d1d"`, `15000000000`, `-1`, `0`, `null`,
		`""`, `"d"`, `"1"`, `"x"`, `"1.2.3d"`, `"1 d"`, `1.5`, `true`, `{}`, `[]`,
	} {
		var got duration.Duration
		var want caddy.Duration
		gotErr, wantErr := json.Unmarshal([]byte(text), &got), json.Unmarshal([]byte(text), &want)
		if (gotErr != nil) != (wantErr != nil) || wantErr == nil && int64(got) != int64(want) {
			t.Errorf("%s is %v, error %v; Caddy reads %v, error %v", text, got, gotErr, want, wantErr)
		}
	}
}
