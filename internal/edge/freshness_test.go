package edge_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestJudgedTime: where the standard signature verified, the body's own time
// never makes a webhook stale, however old it is. One that is ahead is the time
// that the webhook is judged by, and one that is further ahead than the tolerance
// is refused.
func TestJudgedTime(t *testing.T) {
	const tolerance = 5 * time.Minute
	now := time.Unix(1_800_000_000, 0).UTC()
	secret, err := signature.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		header, body time.Duration // from now
		judged       time.Duration
		refused      string
	}{
		{0, 0, 0, ""},
		{0, -time.Minute, 0, ""},
		{0, -48 * time.Hour, 0, ""},
		{-4 * time.Minute, -2 * time.Minute, -2 * time.Minute, ""},
		{0, 3 * time.Minute, 3 * time.Minute, ""},
		{0, tolerance, tolerance, ""},
		{0, tolerance + time.Second, 0, "timestamp_future"},
		{0, 20 * time.Minute, 0, "timestamp_future"},
		{-tolerance, 0, 0, ""},
		{-tolerance - time.Second, 0, 0, "timestamp"},
		{tolerance + time.Second, 0, 0, "timestamp"},
	} {
		for _, accept := range []signature.Scheme{signature.Standard, signature.Standard | signature.Replicate} {
			v := edge.Verifier{Secrets: []signature.Secret{secret}, Accept: accept, Tolerance: tolerance}
			raw := fmt.Appendf(nil, `{"id":"p1","status":"succeeded","timestamp":%q}`, now.Add(c.body).Format(time.RFC3339))
			stamp := fmt.Sprint(now.Add(c.header).Unix())
			h := http.Header{"Webhook-Id": {"m1"}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {secret.SignStandard("m1", stamp, raw)}}
			claim, err := signature.ParseHeaders(h, accept)
			if err != nil {
				t.Fatal(err)
			}
			hook, refused := v.Verify(claim, raw, now)
			name := fmt.Sprintf("header %s, body %s from now", c.header, c.body)
			switch {
			case c.refused != "":
				if refused == nil || refused.Status != http.StatusUnauthorized || string(refused.Outcome) != c.refused {
					t.Errorf("%s: refused: %+v, want reason %s", name, refused, c.refused)
				}
			case refused != nil:
				t.Errorf("%s: refused: %+v", name, refused)
			case !hook.JudgedAt.Equal(now.Add(c.judged)):
				t.Errorf("%s: judged by %s from now, want %s", name, hook.JudgedAt.Sub(now), c.judged)
			}
		}
	}
}
