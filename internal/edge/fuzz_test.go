package edge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// FuzzVerify signs any body, and holds that what is passed on is what was
// signed, that a genuine signature never gets a 401, and that a parser that
// ignores case and takes the last of repeated keys, as encoding/json does, reads
// the same event out of it.
func FuzzVerify(f *testing.F) {
	for _, body := range []string{
		`{"event":"prediction.completed","prediction":{"id":"p1","status":"succeeded"},"timestamp":"2026-01-01T00:00:00Z"}`,
		`{"id":"p1","status":"succeeded","output":["x"],"ID2":1}`,
		`{ "id" : "p1", "a" : {"b":1.0,"1":2} }`,
		`{"id":"p1","\u0049D":"p2"}`, `{"id":"p1","prediction":null}`, `{"prediction":{"id":"p1"},"prediction":{}}`, `[]`, ``, "\xff",
	} {
		f.Add([]byte(body), uint8(0))
	}
	secret, err := signature.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		f.Fatal(err)
	}
	v := edge.Verifier{Secrets: []signature.Secret{secret}, Accept: signature.Replicate | signature.Standard}
	f.Fuzz(func(t *testing.T, raw []byte, how uint8) {
		want := raw
		h := make(http.Header)
		switch how % 3 {
		case 0: // the body as it is
			h.Set("X-Replicate-Signature", secret.SignReplicate(raw))
		case 1: // its ECMAScript form
			doc, err := ecmajson.Parse(raw, ecmajson.Limits{}, nil)
			if err != nil {
				return
			}
			want = doc.Bytes()
			h.Set("X-Replicate-Signature", secret.SignReplicate(want))
		case 2:
			h.Set("Webhook-Id", "m1")
			h.Set("Webhook-Timestamp", "1000000000")
			h.Set("Webhook-Signature", secret.SignStandard("m1", "1000000000", raw))
		}
		claim, err := signature.ParseHeaders(h, v.Accept)
		if err != nil {
			t.Fatal(err)
		}
		hook, refused := v.Verify(claim, raw, time.Unix(1_000_000_000, 0))
		if refused != nil {
			if refused.Status != http.StatusBadRequest || refused.Outcome == "" {
				t.Fatalf("%q is genuine and got %d: %s", raw, refused.Status, refused.Outcome)
			}
			return
		}
		if !bytes.Equal(hook.Body, want) {
			t.Fatalf("%q was signed and %q is passed on", want, hook.Body)
		}
		var loose struct {
			ID, Status any
			Event      any
			Prediction any
		}
		if err := json.Unmarshal(hook.Body, &loose); err != nil {
			var number *json.UnmarshalTypeError
			if errors.As(err, &number) {
				return // a number beyond float64
			}
			t.Fatalf("%q is passed on and is not JSON: %v", hook.Body, err)
		}
		id := loose.ID
		if p, ok := loose.Prediction.(map[string]any); ok {
			// A map keeps keys apart; a struct would not.
			var inner struct{ Prediction struct{ ID any } }
			_ = json.Unmarshal(hook.Body, &inner)
			if id = inner.Prediction.ID; id != p["id"] {
				t.Fatalf("%q: one parser reads the id %v, another %v", hook.Body, id, p["id"])
			}
		}
		if id != hook.Envelope.ID {
			t.Fatalf("%q: the edge reads the id %q, a parser that ignores case %v", hook.Body, hook.Envelope.ID, id)
		}
	})
}
