package edge_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// verifyAny verifies a body that was signed by Standard Webhooks now.
func verifyAny(t *testing.T, v edge.Verifier, body string) (*edge.Webhook, *edge.Refusal) {
	t.Helper()
	now := time.Now()
	v.Secrets = []signature.Secret{replaySecret(t)}
	h := make(http.Header)
	signature.Sign(h, v.Secrets, "msg_1", now, []byte(body))
	claim, err := signature.ParseHeaders(h, v.Accept)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(claim, []byte(body), now)
}

// TestAnyPayloadNamesTheEvent: the event is the text type, else the text event, and
// a prediction is named where the body is one.
func TestAnyPayloadNamesTheEvent(t *testing.T) {
	for body, want := range map[string]struct{ event, prediction string }{
		`{}`: {},
		`{"id":"evt_1","object":"event","created_at":1750287018,"type":"response.completed","data":{"id":"resp_1"}}`: {"response.completed", ""},
		`{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"b1"}}`:            {"batch.succeeded", ""},
		`{"event":"invoice.paid","id":"in_1","status":"failed"}`:                                                     {"invoice.paid", ""},
		`{"type":"a","event":"b"}`:                          {"a", ""},
		`{"type":7,"event":"b"}`:                            {"b", ""},
		`{"type":"","event":"b"}`:                           {"b", ""},
		`{"event":{"type":"x"}}`:                            {},
		`{"id":"x","status":"open"}`:                        {},
		`{"id":"x"}`:                                        {},
		`{"id":7,"status":"failed"}`:                        {},
		`{"id":"p1","status":"succeeded","output":null}`:    {"prediction.completed", "p1"},
		`{"prediction":{"id":"p1","status":"failed"}}`:      {"prediction.failed", "p1"},
		`{"prediction":{"id":"p1"},"event":"e"}`:            {"e", "p1"},
		`{"prediction":{"id":"p1"},"type":"t"}`:             {"t", "p1"},
		`{"prediction":{"status":"failed"},"id":"x"}`:       {},
		`{"prediction":"cloudy","id":"x","status":"known"}`: {},
		`{"ID":"x","Type":"y","Timestamp":"z"}`:             {},
	} {
		hook, refused := verifyAny(t, edge.Verifier{Accept: signature.Standard, Tolerance: time.Minute, Any: true}, body)
		if refused != nil {
			t.Errorf("%s: %v", body, refused)
			continue
		}
		if hook.Name != want.event || hook.Envelope.ID != want.prediction {
			t.Errorf("%s: event %q of prediction %q, want %q of %q", body, hook.Name, hook.Envelope.ID, want.event, want.prediction)
		}
		r := &http.Request{Header: make(http.Header)}
		hook.Prepare(r)
		for name, value := range map[string]string{"X-Replicate-Event": want.event, "X-Replicate-Prediction-Id": want.prediction} {
			if got, ok := r.Header[name]; ok != (value != "") || ok && got[0] != value {
				t.Errorf("%s: %s is %q, want %q", body, name, got, value)
			}
		}
		if keys := hook.Keys("s", "message"); len(keys) != 1 {
			t.Errorf("%s: it has %d keys", body, len(keys))
		}
	}
}

// TestAnyPayloadIsAnUnambiguousObject: what parsers read differently is refused as
// in the webhook of a prediction, and so is what is no object.
func TestAnyPayloadIsAnUnambiguousObject(t *testing.T) {
	for body, want := range map[string]edge.Outcome{
		`[]`: edge.OutcomeJSON, `"x"`: edge.OutcomeJSON, `7`: edge.OutcomeJSON, `null`: edge.OutcomeJSON, ``: edge.OutcomeJSON,
		`{`: edge.OutcomeJSON, "{\"a\":\"\xff\"}": edge.OutcomeJSON, `{"a":1}x`: edge.OutcomeJSON,
		`{"a":1,"a":2}`:          edge.OutcomeDuplicateKey,
		`{"d":[{"x":1,"x":1}]}`:  edge.OutcomeDuplicateKey,
		`{"type":"a","Type":""}`: edge.OutcomeFoldedKey,
		`{"EVENT":1,"event":2}`:  edge.OutcomeFoldedKey,
		`{"a":` + strings.Repeat("[", 512) + strings.Repeat("]", 512) + `}`: edge.OutcomeDepth,
	} {
		_, refused := verifyAny(t, edge.Verifier{Accept: signature.Standard, Tolerance: time.Minute, Any: true}, body)
		if refused == nil || refused.Outcome != want || refused.Status != http.StatusBadRequest {
			t.Errorf("%.40s: got %v, want %s", body, refused, want)
		}
	}
}

// TestAnyPayloadsTimestampIsItsOwn: where the standard scheme alone is accepted, a
// member timestamp says nothing about when the webhook was signed.
func TestAnyPayloadsTimestampIsItsOwn(t *testing.T) {
	body := `{"type":"meeting.scheduled","timestamp":"2199-01-01T00:00:00Z"}`
	v := edge.Verifier{Accept: signature.Standard, Tolerance: time.Minute, Any: true}
	hook, refused := verifyAny(t, v, body)
	if refused != nil || time.Since(hook.JudgedAt) > time.Hour {
		t.Fatalf("got %v", refused)
	}
	v.Any = false
	if _, refused := verifyAny(t, v, body); refused == nil || refused.Outcome != edge.OutcomeTimestampFuture {
		t.Errorf("without payload any: got %v", refused)
	}
}
