package edge_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// message is one webhook that is signed in both ways, and what its holder makes
// of it.
type message struct {
	scope, dedupKey string
	first           string
	ahead           bool // the time in the header is ahead of the clock
	body            []byte
	halves          map[string]http.Header
	accepted        []string
}

// TestSignaturesTakenApartAreAcceptedOnce sends a webhook that is signed in both
// ways as it is, and with either signature taken off, in every order: while the
// clock passes the dedup time, with the store purged at every step, and steps
// back. Whatever the times in header and body are, and whatever makes two
// webhooks the same, no message is accepted twice.
func TestSignaturesTakenApartAreAcceptedOnce(t *testing.T) {
	const tolerance, dedup = 5 * time.Minute, 10 * time.Minute
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	messages := replayed(t, start, tolerance)
	clock := clocktest.At(start)
	s, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), "webhook.db"), Now: clock.Now, PurgeEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	v := edge.Verifier{
		Secrets: []signature.Secret{replaySecret(t)}, Accept: signature.Replicate | signature.Standard,
		Tolerance: tolerance,
	}
	for _, m := range messages {
		m.send(t, &v, s, clock, m.first, dedup)
	}
	for _, minutes := range clockPath() {
		clock.Set(start.Add(time.Duration(minutes) * time.Minute))
		if err := s.Purge(); err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			for _, half := range []string{"both", "standard", "replicate"} {
				m.send(t, &v, s, clock, half, dedup)
			}
		}
	}
	accepted := 0
	for _, m := range messages {
		// Where the body came alone first, nothing tells of a signature that
		// a sender made by a clock that is ahead.
		if len(m.accepted) > 1 && (m.first != "replicate" || !m.ahead) {
			t.Errorf("%s was accepted as %s", m.scope, strings.Join(m.accepted, " and "))
		}
		accepted += len(m.accepted)
	}
	if accepted < len(messages)/2 {
		t.Errorf("only %d of %d messages were accepted at all", accepted, len(messages))
	}
}

// TestSignaturesTakenApartAreOneMessageWithoutTolerance holds the same for as
// long as an entry is kept where the signed time is not judged.
func TestSignaturesTakenApartAreOneMessageWithoutTolerance(t *testing.T) {
	const dedup = 10 * time.Minute
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	clock := clocktest.At(start)
	s, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), "webhook.db"), Now: clock.Now, PurgeEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	v := edge.Verifier{Secrets: []signature.Secret{replaySecret(t)}, Accept: signature.Replicate | signature.Standard}
	for _, m := range replayed(t, start, 5*time.Minute) {
		for _, half := range []string{m.first, "both", "standard", "replicate"} {
			m.send(t, &v, s, clock, half, dedup)
		}
		if len(m.accepted) != 1 {
			t.Errorf("%s was accepted as %q", m.scope, m.accepted)
		}
	}
}

// clockPath is minutes after the start: forth over the dedup time, back to the
// start in steps, and forth again.
func clockPath() (minutes []int) {
	for m := range 40 {
		minutes = append(minutes, m)
	}
	for m := 40; m >= -5; m -= 3 {
		minutes = append(minutes, m)
	}
	for m := 0; m <= 60; m += 7 {
		minutes = append(minutes, m)
	}
	return minutes
}

func replaySecret(t *testing.T) signature.Secret {
	t.Helper()
	secret, err := signature.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// replayed are messages with times around start in header and body.
func replayed(t *testing.T, start time.Time, tolerance time.Duration) (all []*message) {
	t.Helper()
	secret := replaySecret(t)
	minute := time.Minute
	for _, first := range []string{"both", "standard", "replicate"} {
		for _, dedupKey := range []string{"event", "prediction", "message"} {
			for _, shape := range []string{
				`{"event":"prediction.completed","prediction":{"id":"p1","status":"succeeded"}%s}`,
				`{"id":"p1","status":"succeeded"%s}`,
				`{ "id":"p1","status":"processing"%s}`, // not in ECMAScript form
			} {
				for _, header := range []time.Duration{-tolerance, 0, tolerance} {
					for _, own := range []time.Duration{-24 * time.Hour, -tolerance, -minute, 0, minute, tolerance, tolerance + minute, 4 * tolerance, 1 << 62} {
						timestamp := ""
						if own != 1<<62 {
							timestamp = fmt.Sprintf(`,"timestamp":%q`, start.Add(own).Format(time.RFC3339))
						}
						m := &message{
							scope:    fmt.Sprintf("first %s, %s, %s, header %v, body %v", first, dedupKey, shape[:8], header, own),
							dedupKey: dedupKey, first: first, ahead: header > 0, body: fmt.Appendf(nil, shape, timestamp),
						}
						standard := make(http.Header)
						id, at := "m1", fmt.Sprint(start.Add(header).Unix())
						standard.Set(signature.HeaderID, id)
						standard.Set(signature.HeaderTimestamp, at)
						standard.Set(signature.HeaderSignature, secret.SignStandard(id, at, m.body))
						replicate := http.Header{signature.HeaderReplicateSignature: {secret.SignReplicate(m.body)}}
						both := standard.Clone()
						both[signature.HeaderReplicateSignature] = replicate[signature.HeaderReplicateSignature]
						m.halves = map[string]http.Header{"both": both, "standard": standard, "replicate": replicate}
						all = append(all, m)
					}
				}
			}
		}
	}
	return all
}

// send sends a half of the message as the edge would take it.
func (m *message) send(t *testing.T, v *edge.Verifier, s *sqlite.Store, clock *clocktest.Manual, half string, dedup time.Duration) {
	t.Helper()
	claim, err := signature.ParseHeaders(m.halves[half], v.Accept)
	if err != nil {
		t.Fatal(err)
	}
	hook, refused := v.Verify(claim, m.body, clock.Now())
	if refused != nil {
		if refused.Status != http.StatusUnauthorized || !strings.HasPrefix(string(refused.Outcome), "timestamp") {
			t.Fatalf("%s, %s: %d %s", m.scope, half, refused.Status, refused.Outcome)
		}
		return
	}
	c, err := s.Claim(t.Context(), store.Entry{
		Scope: m.scope, Keys: hook.Keys(m.scope, m.dedupKey), SignedAt: hook.JudgedAt, SignedUntil: hook.SignedUntil,
		Expires: clock.Now().Add(dedup),
	}, 0)
	switch {
	case err == nil:
		m.accepted = append(m.accepted, fmt.Sprintf("%s at %s", half, clock.Now().Format("15:04")))
		if err := c.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	case !errors.Is(err, store.ErrDuplicate) && !errors.Is(err, store.ErrReplayed):
		t.Fatalf("%s, %s: %v", m.scope, half, err)
	}
}
