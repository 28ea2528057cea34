package metrics

// CreateOutcome is the outcome of a create with an Idempotency-Key.
type CreateOutcome uint8

// The outcomes.
const (
	CreateKept        CreateOutcome = iota // passed to the API, and its response is kept
	CreateReleased                         // passed to the API, and the next one will be, too
	CreateLost                             // passed to the API, and its response was lost
	CreateReplayed                         // got the response of an earlier one
	CreateInFlight                         // refused while the first was running
	CreateOtherBody                        // refused for another body
	CreateUnknown                          // refused, as the outcome of the first is unknown
	CreateTooMany                          // refused for too many live keys
	CreateInvalid                          // refused for its key, its caller or its body
	CreateUnavailable                      // refused, as the store was not available
	createOutcomes
)

// String returns the outcome as a label.
func (o CreateOutcome) String() string {
	return [createOutcomes]string{"kept", "released", "lost", "replayed", "in_flight", "other_body", "unknown", "too_many", "invalid", "unavailable"}[o]
}

var keyedCreates = counters("keyed_creates_total", "Creates with an Idempotency-Key by outcome.", "outcome")

// CountKeyedCreate counts a create with an Idempotency-Key.
func CountKeyedCreate(o CreateOutcome) { keyedCreates.WithLabelValues(o.String()).Inc() }
