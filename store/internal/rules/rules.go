// Package rules holds what follows from what, the same for every store: which
// events are owed, what a webhook's status is, and how rows are named.
package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Advance takes in what is new among what happened and gives what of it is to
// be delivered.
func Advance(p *store.Prediction, happened []store.Happening) (wanted []store.Happening) {
	for _, h := range happened {
		if p.Happened.Has(event.Terminal) || p.Happened.Has(h.Event) {
			continue
		}
		p.Happened |= h.Event
		if p.URL != "" && p.Events.Has(h.Event) {
			wanted = append(wanted, h)
		}
	}
	if p.Happened.Has(event.Terminal) {
		p.Credential = nil
	}
	return wanted
}

// IsLast reports whether the webhook status follows from the event's delivery:
// the terminal event's does, and the started one's where the client does not
// want the terminal event.
func IsLast(e event.Set, p *store.Prediction) bool {
	terminal := p.Happened & event.Terminal
	if terminal == 0 {
		terminal = event.Terminal
	}
	return e.Has(event.Terminal) || !p.Events.Has(terminal)
}

// WebhookFor is the status once p's URL and events were set.
func WebhookFor(p *store.Prediction) store.WebhookStatus {
	sent := p.Webhook == store.WebhookDelivered || p.Webhook == store.WebhookFailed
	switch {
	case sent && (p.Happened.Has(event.Terminal) || !p.Events.Has(event.Terminal)):
		return p.Webhook
	case p.URL == "":
		return store.WebhookDisabled
	case p.Happened.Has(event.Terminal):
		return p.Webhook
	}
	return store.WebhookPending
}

// PredictionKey is the index entry of a prediction whose id is known, nil of
// any other. It begins with what is derived from the id alone, so that the
// predictions of one id are neighbours whatever API they are of.
func PredictionKey(api, id string) []byte {
	if id == "" {
		return nil
	}
	a := store.KeyOf("", "api", api)
	return append(IDKey(id), a[:8]...)
}

// IDKey is what the keys of all predictions of an id begin with.
func IDKey(id string) []byte {
	k := store.KeyOf("", "prediction", id)
	return k[:]
}

// DeliveryID names a delivery by its number. The nonce makes it unique also
// among stores that were restored from a backup and count the same numbers
// again.
func DeliveryID(n, nonce int64) string {
	return fmt.Sprintf("dlv_%s_%016x", strconv.FormatInt(n, 36), uint64(nonce))
}

// ParseDeliveryID reads what DeliveryID wrote, and only that.
func ParseDeliveryID(id string) (n, nonce int64, ok bool) {
	rest, ok := strings.CutPrefix(id, "dlv_")
	number, hex, _ := strings.Cut(rest, "_")
	n, err := strconv.ParseInt(number, 36, 64)
	bits, err2 := strconv.ParseUint(hex, 16, 64)
	nonce = int64(bits)
	return n, nonce, ok && errors.Join(err, err2) == nil && DeliveryID(n, nonce) == id
}
