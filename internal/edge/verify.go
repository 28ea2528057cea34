package edge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxDepth is the deepest nesting of a body that is forwarded. Parsers of other
// languages give up not far beyond it.
const maxDepth = 512

// Webhook is a verified webhook.
type Webhook struct {
	Envelope
	signature.Result
	// JudgedAt is the signed time that the tolerance was applied to, zero if it
	// was not.
	JudgedAt time.Time
	// SignedUntil is the newest signed time with which the webhook could come
	// again under another signature. Zero means JudgedAt.
	SignedUntil time.Time
	// Duplicate means that the event was accepted before.
	Duplicate bool
	// alone are the bodies that X-Replicate-Signature may have signed beside
	// the standard signature, and that could come again with it alone.
	alone [][]byte
}

// Verifier verifies webhooks.
type Verifier struct {
	Secrets []signature.Secret
	// Accept are the schemes accepted.
	Accept signature.Scheme
	// Tolerance is how far the signed time may be from now. 0 is any.
	Tolerance time.Duration
	// Any accepts every JSON object, also one that is not about a prediction.
	Any bool
}

// Verify checks the signatures, the signed time and the JSON, in this order. The
// JSON is parsed once: for the form that may be signed, for what the event is, and
// for what must not be forwarded.
func (v *Verifier) Verify(claim *signature.Claim, raw []byte, now time.Time) (*Webhook, *Refusal) {
	var doc *ecmajson.Document
	var syntax error
	selected, read := selector, ReadEnvelope
	if v.Any {
		selected, read = anySelector, readAny
	}
	parse := func() {
		if doc == nil && syntax == nil {
			doc, syntax = ecmajson.Parse(raw, ecmajson.Limits{}, selected)
		}
	}
	result, err := claim.Verify(v.Secrets, raw, func() []byte {
		if parse(); doc == nil {
			return nil
		}
		return doc.Bytes()
	})
	if err != nil {
		return nil, unauthorized(OutcomeSignature, err)
	}
	if parse(); syntax != nil {
		// Freshness comes first, where it can be told without the body.
		if v.Tolerance > 0 && result.Schemes.Has(signature.Standard) {
			if refused := v.judgeFreshness(result.SignedAt, now); refused != nil {
				return nil, refused
			}
		}
		return nil, invalid(OutcomeJSON, syntax)
	}
	hook := &Webhook{Envelope: read(doc), Result: result}
	if v.Tolerance > 0 {
		if refused := v.judgeTime(hook, now); refused != nil {
			return nil, refused
		}
	}
	if v.acceptsAlone(hook) {
		hook.alone = [][]byte{raw}
		if !doc.Canonical() {
			hook.alone = append(hook.alone, doc.Bytes())
		}
	}
	if key, offset, found := doc.DuplicateKey(); found {
		return nil, invalid(OutcomeDuplicateKey, fmt.Errorf("key %.64q occurs twice in one object, at byte %d: parsers differ on which counts", key, offset))
	}
	folded := doc.FoldedKey
	if v.Any {
		// Another sender may write all its keys in another case.
		folded = doc.FoldedTwin
	}
	if key, found := folded(); found {
		return nil, invalid(OutcomeFoldedKey, fmt.Errorf("key %.64q differs by case alone from one that says what the event is: parsers differ on whether it counts", key))
	}
	if doc.Depth() > maxDepth {
		return nil, invalid(OutcomeDepth, fmt.Errorf("the body is nested %d deep, the limit is %d", doc.Depth(), maxDepth))
	}
	if v.Any {
		if doc.Kind() != ecmajson.Object {
			return nil, invalid(OutcomeJSON, fmt.Errorf("the body is not a JSON object: its type is %s", doc.Kind()))
		}
		return hook, nil
	}
	if hook.Envelope.ID == "" {
		return nil, invalid(OutcomePredictionID, errors.New("the body has neither prediction.id nor id as a string"))
	}
	return hook, nil
}

// acceptsAlone reports whether the body of a webhook that came with the standard
// signature alone could come again with X-Replicate-Signature alone, which may
// have been removed from it.
func (v *Verifier) acceptsAlone(hook *Webhook) bool {
	return v.Accept.Has(signature.Replicate) && !hook.Schemes.Has(signature.Replicate) &&
		(v.Tolerance == 0 || hook.TimestampFault == "")
}

// judgeTime refuses a webhook whose signed time is not near now. If the standard
// signature verified, its timestamp decides, which is new with every retry;
// otherwise the body's own does.
//
// JudgedAt becomes the later of both times: whoever removes the standard signature
// has the same body judged by the body's time, so what is remembered must cover
// that time, too. A body whose time is further ahead than the tolerance is
// refused: it would become acceptable by X-Replicate-Signature alone after its
// entry was purged, and to cover its time would have genuine webhooks refused
// until then.
func (v *Verifier) judgeTime(hook *Webhook, now time.Time) *Refusal {
	if !hook.Schemes.Has(signature.Standard) {
		if hook.TimestampFault != "" {
			return unauthorized(ofFault(hook.TimestampFault), fmt.Errorf("nothing signed says when: the body's timestamp %s", hook.TimestampFault))
		}
		hook.JudgedAt = hook.Timestamp
		if v.Accept.Has(signature.Standard) {
			// A standard signature may have been removed. Its time is not
			// known, but it was made before now.
			hook.SignedUntil = now
		}
		return v.judgeFreshness(hook.JudgedAt, now)
	}
	hook.JudgedAt = hook.Result.SignedAt
	if refused := v.judgeFreshness(hook.JudgedAt, now); refused != nil {
		return refused
	}
	if v.Any && v.Accept == signature.Standard || !hook.Timestamp.After(hook.JudgedAt) {
		// Of another sender's body it is not known whose time its timestamp
		// is. No signature is accepted that covers the body's time alone.
		return nil
	}
	if !signature.Fresh(hook.Timestamp, now, v.Tolerance) {
		return unauthorized(OutcomeTimestampFuture, fmt.Errorf("webhook-timestamp is fresh, but the body's timestamp is %s ahead of this clock", offset(hook.Timestamp, now)))
	}
	hook.JudgedAt = hook.Timestamp
	return nil
}

// judgeFreshness refuses a signed time that is not within the tolerance.
func (v *Verifier) judgeFreshness(signedAt, now time.Time) *Refusal {
	switch {
	case signature.Fresh(signedAt, now, v.Tolerance):
		return nil
	case signedAt.After(now):
		return unauthorized(OutcomeTimestamp, fmt.Errorf("the signed time is %s ahead of this clock", offset(signedAt, now)))
	}
	return unauthorized(OutcomeTimestamp, fmt.Errorf("the signed time is %s behind this clock", offset(signedAt, now)))
}

// offset returns how far two times are apart, to the second.
func offset(a, b time.Time) time.Duration { return a.Sub(b).Abs().Round(time.Second) }

// Keys returns the keys that identify the event for deduplication by dedupKey: one
// of event, prediction and message. They are made of signed material only.
func (h *Webhook) Keys(scope, dedupKey string) []store.Key {
	key := func(kind string, material ...string) store.Key { return store.KeyOf(scope, kind, material...) }
	switch {
	case dedupKey == "prediction":
		return []store.Key{key("prediction", h.Envelope.ID)}
	case dedupKey == "event" && h.Bare && event.IsTerminal(h.Status):
		return []store.Key{key("status", h.Envelope.ID, h.Status)}
	case dedupKey == "event" && !h.Bare && h.Name != "":
		return []store.Key{key("event", h.Envelope.ID, h.Name)}
	}
	// Both identities if both are signed, or may have been: a replay may leave
	// one out.
	var keys []store.Key
	if h.Schemes.Has(signature.Standard) {
		keys = append(keys, key("message", h.Result.ID))
	}
	if h.Schemes.Has(signature.Replicate) {
		sum := sha256.Sum256(h.ReplicateBody)
		keys = append(keys, key("sha256", string(sum[:])))
	}
	for _, body := range h.alone {
		sum := sha256.Sum256(body)
		keys = append(keys, key("sha256", string(sum[:])))
	}
	return keys
}
