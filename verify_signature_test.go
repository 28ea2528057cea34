package replicatewebhook_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestBothFormsOfTheGuidesSignature: the raw bytes, or what JSON.stringify
// makes of them. The app gets exactly the bytes that were signed.
func TestBothFormsOfTheGuidesSignature(t *testing.T) {
	e := newEdge(t, "")
	for _, c := range []struct {
		name string
		// sent is made from the ECMAScript form.
		sent func(form string) string
		raw  bool // sign what is sent
	}{
		{"form sent", func(s string) string { return s }, true},
		{"pretty-printed, form signed", indent, false},
		{"pretty-printed, raw signed", indent, true},
		{"newline at the end", func(s string) string { return s + "\n" }, false},
		{"escaped slash and unicode", func(s string) string {
			return strings.NewReplacer("<cat>", `\u003ccat\u003E`, "prediction.completed", `prediction\u002ecompleted`).Replace(s)
		}, false},
		{"number spelled otherwise", func(s string) string { return strings.Replace(s, `"n":100`, `"n":1.00e2`, 1) }, false},
		{"index keys out of order", func(s string) string { return strings.Replace(s, `"1":1,"2":2`, `"2":2,"1":1`, 1) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			form := strings.Replace(guideBody(c.name, "prediction.completed"), `"input":{`, `"input":{"1":1,"2":2,"n":100,`, 1)
			sent, want := c.sent(form), form
			if c.raw {
				want = sent
			}
			e.accepted(replicate(whsec, want).withBody(sent).with("Content-Digest", "sha-256=:abc:"))
			got := e.app.Last()
			if string(got.Got) != want {
				t.Errorf("the app got %q, want %q", got.Got, want)
			}
			if got.ContentLength != int64(len(want)) || got.Header.Get("Content-Length") != strconv.Itoa(len(want)) && got.Header.Get("Content-Length") != "" {
				t.Errorf("Content-Length is %d, want %d", got.ContentLength, len(want))
			}
			if digest := got.Header.Get("Content-Digest"); (digest != "") != (sent == want) {
				t.Errorf("Content-Digest of a body that was sent %v: %q", sent == want, digest)
			}
		})
	}
}

func indent(s string) string {
	var b bytes.Buffer
	_ = json.Indent(&b, []byte(s), "", "  ")
	return b.String()
}

// TestSignaturePrefix: sha256= may stand before the digits.
func TestSignaturePrefix(t *testing.T) {
	e := newEdge(t, "")
	w := completed("p1")
	w.header.Set("X-Replicate-Signature", "sha256="+w.header.Get("X-Replicate-Signature"))
	e.accepted(w)
}

// TestChunkedBodies are passed on with their length.
func TestChunkedBodies(t *testing.T) {
	e := newEdge(t, "")
	c, w := dial(t, e.Addr("PORT1")), completed("p1")
	c.head(w, "Transfer-Encoding: chunked", "Trailer: X-Late, X-Replicate-Verified")
	half := len(w.body) / 2
	c.write(fmt.Sprintf("%x\r\n%s\r\n", half, w.body[:half]))
	c.write(fmt.Sprintf("%x\r\n%s\r\n0\r\nX-Late: 1\r\nX-Replicate-Verified: late\r\n\r\n", len(w.body)-half, w.body[half:]))
	if a := c.answer(); a.status != http.StatusOK {
		t.Fatalf("got %v", a)
	}
	got := e.app.Last()
	if string(got.Got) != w.body || got.ContentLength != int64(len(w.body)) || len(got.TransferEncoding) > 0 {
		t.Errorf("the app got %d bytes with length %d, encoding %v", len(got.Got), got.ContentLength, got.TransferEncoding)
	}
	if len(got.Trailer) > 0 || got.Header.Get("Trailer") != "" {
		t.Errorf("the app got trailers %v, announced %q", got.Trailer, got.Header.Get("Trailer"))
	}
}

// TestStandardWebhooksVector is the example that the specification's libraries
// are tested with. Its time is long past, so it takes a route without
// tolerance.
func TestStandardWebhooksVector(t *testing.T) {
	e := newEdge(t, "secret "+older+"\ntolerance off")
	body := `{"test": 2432232314}`
	vector := webhook{body, http.Header{
		"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}}
	// It verifies, and then holds no prediction.
	e.refused(vector, http.StatusBadRequest)
	e.refused(vector.withBody(body+" "), http.StatusUnauthorized)
}

// TestStandardScheme takes Replicate's own webhook: a bare prediction, several
// signatures in one header, no time in the body.
func TestStandardScheme(t *testing.T) {
	e := newEdge(t, "secret "+whsec+" "+older)
	w := standard(whsec, "msg_1", bareBody("p1", "succeeded"))
	signature := w.header.Get("Webhook-Signature")
	other := standard(older, "msg_1", w.body).header.Get("Webhook-Signature")
	unknown := "v1," + strings.Repeat("A", 43) + "="
	e.accepted(w.without("Webhook-Signature").with("Webhook-Signature", "v2,abc "+unknown+" "+signature))
	got := e.app.Last()
	if got.Header.Get("X-Replicate-Event") != "prediction.completed" || got.Header.Get("X-Replicate-Verified") != "standard" {
		t.Errorf("the app got %v", got.Header)
	}
	e.isDuplicate(w.without("Webhook-Signature").with("Webhook-Signature", other))
	// The standard scheme signs the bytes as they are, never their form.
	pretty := standard(whsec, "msg_2", bareBody("p2", "succeeded"))
	e.refused(pretty.withBody(indent(pretty.body)), http.StatusUnauthorized)
}

// TestEveryStatusOfABarePrediction has its event.
func TestEveryStatusOfABarePrediction(t *testing.T) {
	e := newEdge(t, "")
	for status, event := range map[string]string{
		"starting": "prediction.started", "processing": "prediction.started", "succeeded": "prediction.completed",
		"failed": "prediction.failed", "canceled": "prediction.failed", "aborted": "prediction.failed", "queued": "",
	} {
		e.accepted(standard(whsec, "msg_"+status, bareBody("p_"+status, status)))
		if got := e.app.Last().Header.Get("X-Replicate-Event"); got != event {
			t.Errorf("%s: event %q, want %q", status, got, event)
		}
	}
}

// TestBothSchemesMustVerify where both are present and accepted.
func TestBothSchemesMustVerify(t *testing.T) {
	e := newEdge(t, "")
	w := both(whsec, "msg_1", guideBody("p1", "prediction.completed"))
	e.refused(w.without("X-Replicate-Signature").with("X-Replicate-Signature", strings.Repeat("0", 64)), 401)
	e.refused(w.without("Webhook-Id").with("Webhook-Id", "msg_9"), 401)
	e.refused(w.without("Webhook-Signature"), 401)
	e.accepted(w)
	if got := e.app.Last().Header.Get("X-Replicate-Verified"); got != "standard" {
		t.Errorf("verified by %q", got)
	}
	// Freshness is the standard signature's: the body's own time is the
	// event's, and a late retry of it is fresh.
	old := guideBodyAt("p2", "prediction.completed", time.Now().Add(-time.Hour))
	e.accepted(both(whsec, "msg_2", old))
	e.refused(both(whsec, "msg_3", guideBodyAt("p3", "prediction.completed", time.Now().Add(-time.Hour))).without(standardOnly...), 401)
}

// TestSecretRotation: any secret may have signed.
func TestSecretRotation(t *testing.T) {
	e := newEdge(t, "secret "+whsec+" "+older+" "+strconv.Quote(shared))
	for i, secret := range []string{whsec, older, shared} {
		e.accepted(replicate(secret, guideBody(fmt.Sprint("p", i), "prediction.completed")))
	}
	e.accepted(standard(older, "msg_1", bareBody("p9", "succeeded")))
	// Once the older secret is gone, so is what it signs.
	e.reload("secret " + whsec)
	e.refused(replicate(older, guideBody("p5", "prediction.completed")), 401)
	e.accepted(completed("p6"))
}

// TestSchemeRestriction: what is not accepted is not looked at.
func TestSchemeRestriction(t *testing.T) {
	body := guideBody("p1", "prediction.completed")
	t.Run("replicate", func(t *testing.T) {
		e := newEdge(t, "scheme replicate")
		e.refused(standard(whsec, "msg_1", body), 401)
		e.accepted(both(whsec, "msg_1", body).without("Webhook-Signature").with("Webhook-Signature", "v1,forged"))
		if got := e.app.Last().Header.Get("X-Replicate-Verified"); got != "replicate" {
			t.Errorf("verified by %q", got)
		}
	})
	t.Run("standard", func(t *testing.T) {
		e := newEdge(t, "scheme standard")
		e.refused(replicate(whsec, body), 401)
		e.accepted(both(whsec, "msg_1", body).without("X-Replicate-Signature").with("X-Replicate-Signature", "forged"))
	})
	t.Run("plain secret", func(t *testing.T) {
		e := newEdge(t, "secret "+strconv.Quote(shared))
		e.refused(standard(whsec, "msg_1", body), 401)
		e.accepted(replicate(shared, body))
	})
}

// TestTolerance is as wide as it is set, both ways, and can be off.
func TestTolerance(t *testing.T) {
	at := func(id string, ago time.Duration) webhook {
		return replicate(whsec, guideBodyAt(id, "prediction.completed", time.Now().Add(-ago)))
	}
	e := newEdge(t, "tolerance 1h")
	e.accepted(at("p1", 59*time.Minute))
	e.accepted(at("p2", -59*time.Minute))
	e.refused(at("p3", 61*time.Minute), 401)
	e.refused(at("p4", -61*time.Minute), 401)
	e.reload("tolerance off")
	e.accepted(at("p5", 10000*time.Hour))
	e.accepted(replicate(whsec, bareBody("p6", "succeeded")))
}
