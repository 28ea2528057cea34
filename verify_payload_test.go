package replicatewebhook_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestPayloadAnyTakesAnySenderOfStandardWebhooks: the secret alone is enough, and a
// message counts once.
func TestPayloadAnyTakesAnySenderOfStandardWebhooks(t *testing.T) {
	e := newEdge(t, "payload any")
	body := `{"id":"evt_1","object":"event","type":"response.completed","data":{"id":"resp_1"}}`
	e.accepted(standard(whsec, "msg_1", body))
	got := e.app.Last()
	if string(got.Got) != body || got.Header.Get("X-Replicate-Event") != "response.completed" ||
		got.Header.Get("X-Replicate-Verified") != "standard" || len(got.Header["X-Replicate-Prediction-Id"]) != 0 {
		t.Fatalf("the app got %q with %v", got.Got, got.Header)
	}
	e.isDuplicate(standard(whsec, "msg_1", body))
	e.accepted(standard(whsec, "msg_2", body))
	e.accepted(standard(whsec, "msg_3", `{"hello":"world"}`).with("X-Replicate-Event", "forged").with("X-Replicate-Prediction-Id", "forged"))
	if got := e.app.Last(); len(got.Header["X-Replicate-Event"])+len(got.Header["X-Replicate-Prediction-Id"]) != 0 {
		t.Fatalf("the app got %v", got.Header)
	}
	e.accepted(standard(whsec, "msg_4", guideBody("p1", "prediction.completed")))
	if got := e.app.Last(); got.Header.Get("X-Replicate-Event") != "prediction.completed" || got.Header.Get("X-Replicate-Prediction-Id") != "p1" {
		t.Fatalf("the app got %v", got.Header)
	}
	e.refused(replicate(whsec, guideBody("p1", "prediction.completed")), http.StatusUnauthorized)
	e.refused(standard(older, "msg_5", body), http.StatusUnauthorized)
	e.refused(standard(whsec, "msg_5", `[1]`), http.StatusBadRequest)
}

// TestWithoutPayloadAnyABodyNamesAPrediction is the default.
func TestWithoutPayloadAnyABodyNamesAPrediction(t *testing.T) {
	e := newEdge(t, "")
	e.refused(standard(whsec, "msg_1", `{"type":"response.completed"}`), http.StatusBadRequest)
}

// TestPayloadAnyComparesEventsAsSent: events takes any name, and forwards no other.
func TestPayloadAnyComparesEventsAsSent(t *testing.T) {
	e := newEdge(t, "events response.completed Started\npayload any")
	e.accepted(standard(whsec, "msg_1", `{"type":"response.completed"}`))
	e.accepted(standard(whsec, "msg_2", `{"event":"Started"}`))
	for id, body := range map[string]string{
		"msg_3": `{"type":"response.failed"}`, "msg_4": `{"type":"started"}`, "msg_5": `{}`, "msg_6": `{"type":"x","event":"Started"}`,
	} {
		if a := e.refused(standard(whsec, id, body), http.StatusOK); a.duplicate() {
			t.Errorf("%s: got %v", body, a)
		}
	}
}

// TestPayloadAnyTakesSvixsOwnHeaders: Svix sends the headers of Standard Webhooks
// under names of its own, and an app finds under both names what was verified.
func TestPayloadAnyTakesSvixsOwnHeaders(t *testing.T) {
	body := `{"type":"invoice.paid"}`
	own := func(w webhook) webhook {
		h := make(http.Header)
		for name, values := range w.header {
			h[strings.Replace(name, "Webhook-", "Svix-", 1)] = values
		}
		return webhook{w.body, h}
	}
	e := newEdge(t, "payload any")
	e.accepted(own(standard(whsec, "msg_1", body)))
	for _, prefix := range []string{"Svix-", "Webhook-"} {
		if got := e.app.Last().Header; got.Get(prefix+"Id") != "msg_1" || got.Get(prefix+"Signature") == "" || got.Get(prefix+"Timestamp") == "" {
			t.Errorf("the app got %v", got)
		}
	}
	e.isDuplicate(standard(whsec, "msg_1", body))
	e.refused(own(standard(older, "msg_2", body)), http.StatusUnauthorized)
	e.accepted(standard(whsec, "msg_2", body).with("Svix-Id", "msg_9").with("Svix_signature", "v1,forged"))
	if got := e.app.Last().Header; len(got["Svix-Id"])+len(got["Svix_signature"]) != 0 || got.Get("Webhook-Id") != "msg_2" {
		t.Errorf("the app got %v", got)
	}
	e.reload("")
	e.refused(own(standard(whsec, "msg_3", bareBody("p1", "succeeded"))), http.StatusUnauthorized)
}
