package replicatewebhook_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestEventKey: prediction and event make an event, whatever else differs.
func TestEventKey(t *testing.T) {
	e := newEdge(t, "")
	now := time.Now()
	at := func(id, event string, ago time.Duration) webhook {
		return replicate(whsec, guideBodyAt(id, event, now.Add(-ago)))
	}
	e.accepted(at("p1", "prediction.started", 0))
	e.accepted(at("p1", "prediction.completed", 0))
	e.accepted(at("p2", "prediction.completed", 0))
	e.isDuplicate(at("p1", "prediction.completed", time.Minute))
	e.isDuplicate(standard(whsec, "another", guideBody("p1", "prediction.completed")))
	// A body in another spelling, under the signature of its form.
	w := at("p1", "prediction.completed", 0)
	e.isDuplicate(w.withBody(indent(w.body)))
	w = at("p3", "prediction.completed", 0)
	e.accepted(w.withBody(indent(w.body)))
	e.isDuplicate(w)
	// Parts of a key can't run into each other.
	e.accepted(at("a", "b.c", 0))
	e.accepted(at("a.b", "c", 0))
}

// TestBarePredictionKeys: a terminal status is an event; the many webhooks of
// a running prediction are told apart by their message.
func TestBarePredictionKeys(t *testing.T) {
	e := newEdge(t, "")
	e.accepted(standard(whsec, "m1", bareBody("p1", "succeeded")))
	e.isDuplicate(standard(whsec, "m2", bareBody("p1", "succeeded")))
	e.accepted(standard(whsec, "m3", bareBody("p1", "failed")))
	e.accepted(standard(whsec, "m4", bareBody("p2", "succeeded")))

	e.accepted(standard(whsec, "m5", bareBody("p1", "processing")))
	e.accepted(standard(whsec, "m6", bareBody("p1", "processing")))
	e.isDuplicate(standard(whsec, "m5", bareBody("p1", "processing")))

	body := func(logs string) string {
		return strings.Replace(bareBody("p1", "processing"), `"logs":""`, `"logs":"`+logs+`","timestamp":"`+time.Now().UTC().Format(time.RFC3339)+`"`, 1)
	}
	one, two := body("1"), body("2")
	e.accepted(replicate(whsec, one))
	e.accepted(replicate(whsec, two))
	e.isDuplicate(replicate(whsec, one))
	e.isDuplicate(replicate(whsec, one).withBody(indent(one)))
}

// TestEntryOfBothSchemes is found again under either one alone.
func TestEntryOfBothSchemes(t *testing.T) {
	e := newEdge(t, "dedup_key message")
	w := both(whsec, "m1", guideBody("p1", "prediction.completed"))
	e.accepted(w)
	e.isDuplicate(w)
	e.isDuplicate(w.without("X-Replicate-Signature"))
	e.isDuplicate(w.without(standardOnly...))
	e.isDuplicate(both(whsec, "m2", w.body))
	e.accepted(both(whsec, "m3", guideBody("p2", "prediction.completed")))
}

// TestSignaturesTakenApartAreOneMessage: whoever holds a webhook up on its way
// can take one of its signatures off, and send that half later.
func TestSignaturesTakenApartAreOneMessage(t *testing.T) {
	e := newEdge(t, "dedup_key message")
	for i, spell := range []func(string) string{func(s string) string { return s }, indent} {
		one := func(id string) webhook {
			form := guideBody(id, "prediction.completed")
			return standard(whsec, id, spell(form)).with("X-Replicate-Signature", hexHMAC(whsec, form))
		}
		w := one(fmt.Sprint("first", i))
		e.accepted(w.without("X-Replicate-Signature"))
		e.isDuplicate(w.without(standardOnly...))
		e.isDuplicate(w)
		w = one(fmt.Sprint("second", i))
		e.accepted(w.without(standardOnly...))
		e.isDuplicate(w.without("X-Replicate-Signature"))
		e.isDuplicate(w)
	}
	// Two messages with one body are two, where the body has no time by
	// which it could be taken alone.
	e.accepted(standard(whsec, "m1", bareBody("p1", "processing")))
	e.accepted(standard(whsec, "m2", bareBody("p1", "processing")))
}

// TestPredictionKey takes one event of each prediction.
func TestPredictionKey(t *testing.T) {
	e := newEdge(t, "dedup_key prediction")
	e.accepted(replicate(whsec, guideBody("p1", "prediction.started")))
	e.isDuplicate(replicate(whsec, guideBody("p1", "prediction.completed")))
	e.isDuplicate(standard(whsec, "m1", bareBody("p1", "succeeded")))
	e.accepted(completed("p2"))
}

// TestMessageKey takes each message once, whatever it says.
func TestMessageKey(t *testing.T) {
	e := newEdge(t, "dedup_key message")
	body := bareBody("p1", "succeeded")
	e.accepted(standard(whsec, "m1", body))
	e.accepted(standard(whsec, "m2", body))
	e.isDuplicate(standardAt(whsec, "m1", body, time.Now().Add(-time.Minute)))
	e.isDuplicate(standard(whsec, "m1", bareBody("p2", "failed")))
}

// TestScopesAreApart: two routes may each take the same event, unless they
// share a scope.
func TestScopesAreApart(t *testing.T) {
	for _, c := range []struct {
		name, scope string
		duplicate   bool
	}{
		{"apart", "scope other", false},
		{"shared", "scope default", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, "")
			text := site(withSecret(""), e.app.Addr())
			e.Reload(text + strings.Replace(strings.Replace(removeGlobals(text), "PORT1", "PORT2", 1), "secret", c.scope+"\nsecret", 1))
			w := completed("p1")
			e.accepted(w)
			a, err := post(e.Client, e.URL("PORT2", route), w)
			if err != nil || a.status != 200 || a.duplicate() != c.duplicate {
				t.Fatalf("the second route: %v, %v", a, err)
			}
			// The signature does not say which route it is for.
			if lines := e.Logs.Lines("warn", "two scopes accept one secret", "other"); (len(lines) > 0) == c.duplicate {
				t.Errorf("warned of one secret in two scopes: %v", lines)
			}
		})
	}
}

// removeGlobals leaves the sites.
func removeGlobals(text string) string { return text[strings.Index(text, "http://"):] }
