package edge

// Outcome is how a request ended: the label of a metric, and the reason in logs
// and events. The zero value is none.
type Outcome string

// The outcomes of a request.
const (
	OutcomeAccepted  Outcome = "accepted"
	OutcomeDuplicate Outcome = "duplicate"
	OutcomeFiltered  Outcome = "filtered"

	OutcomeMethod   Outcome = "method"
	OutcomeEncoding Outcome = "encoding"

	OutcomeHeadersMissing      Outcome = "headers_missing"
	OutcomeHeadersSecret       Outcome = "headers_secret"
	OutcomeHeadersScheme       Outcome = "headers_scheme"
	OutcomeHeadersMalformed    Outcome = "headers_malformed"
	OutcomeHeadersDuplicated   Outcome = "headers_duplicated"
	OutcomeHeadersOversized    Outcome = "headers_oversized"
	OutcomeHeadersConnection   Outcome = "headers_connection"
	OutcomeHeadersTimestamp    Outcome = "headers_timestamp"
	OutcomeHeadersMilliseconds Outcome = "headers_milliseconds"

	OutcomeTooLarge    Outcome = "too_large"
	OutcomeOuterLimit  Outcome = "outer_limit"
	OutcomeReadTimeout Outcome = "read_timeout"
	OutcomeIncomplete  Outcome = "incomplete"
	OutcomeRead        Outcome = "read"
	OutcomeBudget      Outcome = "budget"

	OutcomeSignature             Outcome = "signature"
	OutcomeTimestamp             Outcome = "timestamp"
	OutcomeTimestampFuture       Outcome = "timestamp_future"
	OutcomeTimestampMissing      Outcome = "timestamp_missing"
	OutcomeTimestampType         Outcome = "timestamp_type"
	OutcomeTimestampNumber       Outcome = "timestamp_number"
	OutcomeTimestampMilliseconds Outcome = "timestamp_milliseconds"
	OutcomeTimestampZone         Outcome = "timestamp_zone"
	OutcomeTimestampCase         Outcome = "timestamp_case"
	OutcomeTimestampFormat       Outcome = "timestamp_format"
	OutcomeReplayed              Outcome = "replayed"

	OutcomeJSON         Outcome = "json"
	OutcomeDuplicateKey Outcome = "duplicate_key"
	OutcomeFoldedKey    Outcome = "folded_key"
	OutcomeDepth        Outcome = "depth"
	OutcomePredictionID Outcome = "prediction_id"

	OutcomeInFlight   Outcome = "in_flight"
	OutcomeInboxFull  Outcome = "inbox_full"
	OutcomeStore      Outcome = "store"
	OutcomeClientGone Outcome = "client_gone"

	OutcomeUpstreamRefused  Outcome = "upstream_refused"
	OutcomeUpstreamTimeout  Outcome = "upstream_timeout"
	OutcomeUpstreamNoStatus Outcome = "upstream_no_status"
	OutcomePanicked         Outcome = "panicked"
)

// Class says who has to act on an outcome. The zero value is that of no outcome.
type Class uint8

// The classes of outcomes.
const (
	Accepted  Class = iota + 1 // nobody: the app has the event
	Duplicate                  // nobody: the app has the event already, or does not want it
	Rejected                   // the sender: what it sent is not a webhook for this route
	Refused                    // the operator: the app has no event of it, and the sender may retry
)

var classes = map[Outcome]Class{
	OutcomeAccepted:  Accepted,
	OutcomeDuplicate: Duplicate,
	OutcomeFiltered:  Duplicate,

	OutcomeMethod:              Rejected,
	OutcomeEncoding:            Rejected,
	OutcomeHeadersMissing:      Rejected,
	OutcomeHeadersSecret:       Rejected,
	OutcomeHeadersScheme:       Rejected,
	OutcomeHeadersMalformed:    Rejected,
	OutcomeHeadersDuplicated:   Rejected,
	OutcomeHeadersOversized:    Rejected,
	OutcomeHeadersConnection:   Rejected,
	OutcomeHeadersTimestamp:    Rejected,
	OutcomeHeadersMilliseconds: Rejected,

	OutcomeTooLarge:    Rejected,
	OutcomeOuterLimit:  Rejected,
	OutcomeReadTimeout: Rejected,
	OutcomeIncomplete:  Rejected,
	OutcomeRead:        Rejected,
	OutcomeBudget:      Refused,

	OutcomeSignature:             Rejected,
	OutcomeTimestamp:             Rejected,
	OutcomeTimestampFuture:       Rejected,
	OutcomeTimestampMissing:      Rejected,
	OutcomeTimestampType:         Rejected,
	OutcomeTimestampNumber:       Rejected,
	OutcomeTimestampMilliseconds: Rejected,
	OutcomeTimestampZone:         Rejected,
	OutcomeTimestampCase:         Rejected,
	OutcomeTimestampFormat:       Rejected,
	OutcomeReplayed:              Rejected,

	OutcomeJSON:         Rejected,
	OutcomeDuplicateKey: Rejected,
	OutcomeFoldedKey:    Rejected,
	OutcomeDepth:        Rejected,
	OutcomePredictionID: Rejected,

	OutcomeInFlight:   Refused,
	OutcomeInboxFull:  Refused,
	OutcomeStore:      Refused,
	OutcomeClientGone: Refused,

	OutcomeUpstreamRefused:  Refused,
	OutcomeUpstreamTimeout:  Refused,
	OutcomeUpstreamNoStatus: Refused,
	OutcomePanicked:         Refused,
}

// Outcomes returns all outcomes, in no particular order.
func Outcomes() []Outcome {
	all := make([]Outcome, 0, len(classes))
	for o := range classes {
		all = append(all, o)
	}
	return all
}

// Class returns the class of the outcome.
func (o Outcome) Class() Class { return classes[o] }

// ofHeaders returns the outcome of a reason of signature.HeaderError.
func ofHeaders(reason string) Outcome { return Outcome("headers_" + reason) }

// ofFault returns the outcome of a fault of a body's timestamp.
func ofFault(f TimestampFault) Outcome { return Outcome("timestamp_" + f) }
