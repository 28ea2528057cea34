package ledger

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// PredictionKey returns the index entry of a prediction whose ID is known, nil for
// any other. It begins with what is derived from the ID alone, so that the
// predictions of one ID are neighbors whatever API they are of.
func PredictionKey(api, id string) []byte {
	if id == "" {
		return nil
	}
	a := store.KeyOf("", "api", api)
	return append(IDKey(id), a[:8]...)
}

// IDKey returns what the keys of all predictions of an ID begin with.
func IDKey(id string) []byte {
	k := store.KeyOf("", "prediction", id)
	return k[:]
}

// What the IDs of deliveries and of inbound events begin with.
const (
	deliveryPrefix = "dlv_"
	eventPrefix    = "evt_"
)

// DeliveryID returns the ID of a delivery by its number. The nonce makes it unique
// also among stores that were restored from a backup and count the same numbers
// again.
func DeliveryID(n, nonce int64) string { return idOf(deliveryPrefix, n, nonce) }

// EventID returns the ID of an inbound event by its number.
func EventID(n, nonce int64) string { return idOf(eventPrefix, n, nonce) }

// IDOf returns the ID of a delivery whose prediction has the number.
func IDOf(n, nonce, prediction int64) string {
	if IsInbound(prediction) {
		return EventID(n, nonce)
	}
	return DeliveryID(n, nonce)
}

func idOf(prefix string, n, nonce int64) string {
	return fmt.Sprintf("%s%s_%016x", prefix, strconv.FormatInt(n, 36), uint64(nonce))
}

// ParseDeliveryID returns what DeliveryID was given. It accepts nothing else.
func ParseDeliveryID(id string) (n, nonce int64, ok bool) { return parseID(deliveryPrefix, id) }

// ParseEventID returns what EventID was given. It accepts nothing else.
func ParseEventID(id string) (n, nonce int64, ok bool) { return parseID(eventPrefix, id) }

// ParseID returns what DeliveryID or EventID was given.
func ParseID(id string) (n, nonce int64, ok bool) {
	if n, nonce, ok = ParseDeliveryID(id); !ok {
		n, nonce, ok = ParseEventID(id)
	}
	return n, nonce, ok
}

func parseID(prefix, id string) (n, nonce int64, ok bool) {
	rest, ok := strings.CutPrefix(id, prefix)
	number, hex, _ := strings.Cut(rest, "_")
	n, err := strconv.ParseInt(number, 36, 64)
	bits, err2 := strconv.ParseUint(hex, 16, 64)
	nonce = int64(bits)
	return n, nonce, ok && errors.Join(err, err2) == nil && idOf(prefix, n, nonce) == id
}
