package delivery

// Outcome is how an attempt ended. The zero value is none.
type Outcome uint8

// The outcomes of an attempt.
const (
	OutcomeSuccess     Outcome = iota + 1 // 2xx
	OutcomeDuplicate                      // 2xx, and the receiver had the event before
	OutcomeGone                           // 410
	OutcomeRedirect                       // 3xx
	OutcomeClientError                    // another 4xx
	OutcomeThrottled                      // 429
	OutcomeServerError                    // 5xx, and statuses without a meaning
	OutcomeTimeout                        // no complete response in time
	OutcomeConnection                     // no connection, or it broke
	OutcomeTLS                            // the certificate or the handshake is not good
	OutcomeResolving                      // the host has no address
	OutcomeForbidden                      // egress refuses the address
	OutcomeBadURL                         // egress refuses the URL
	OutcomeProtocol                       // the response is not HTTP
	OutcomeInternal                       // nothing was sent, for a fault on this side
	OutcomeHeld                           // nothing was sent for too long, see Breaker.Hold
	OutcomeUnavailable                    // an app's 502, 503 or 504, by itself or by the proxy before it
	endOfOutcomes
)

// Class says what the receiver of an attempt did.
type Class uint8

// The classes of outcomes.
const (
	Received   Class = iota + 1 // it has the event: 2xx
	Refused                     // it gave another complete response
	Unanswered                  // it gave no complete response
)

// blame is what a failed attempt counts against.
type blame uint8

const (
	// blameNothing: the attempt succeeded, ended the delivery and the webhook
	// with it, or sent nothing.
	blameNothing blame = iota
	// blameURL: the receiver refused it, which is about the client's URL alone.
	blameURL
	// blameEndpoint: no complete response came.
	blameEndpoint
)

var outcomes = [endOfOutcomes]struct {
	label string
	class Class
	blame blame
}{
	OutcomeSuccess:     {"success", Received, blameNothing},
	OutcomeDuplicate:   {"duplicate", Received, blameNothing},
	OutcomeGone:        {"gone", Refused, blameNothing},
	OutcomeRedirect:    {"redirect", Refused, blameURL},
	OutcomeClientError: {"client_error", Refused, blameURL},
	OutcomeThrottled:   {"throttled", Refused, blameURL},
	OutcomeServerError: {"server_error", Refused, blameURL},
	OutcomeTimeout:     {"timeout", Unanswered, blameEndpoint},
	OutcomeConnection:  {"connection", Unanswered, blameEndpoint},
	OutcomeTLS:         {"tls", Unanswered, blameEndpoint},
	OutcomeResolving:   {"resolving", Unanswered, blameEndpoint},
	OutcomeForbidden:   {"forbidden", Unanswered, blameEndpoint},
	OutcomeBadURL:      {"bad_url", Unanswered, blameURL},
	OutcomeProtocol:    {"protocol", Unanswered, blameEndpoint},
	OutcomeInternal:    {"internal", Unanswered, blameNothing},
	OutcomeHeld:        {"held", Unanswered, blameNothing},
	OutcomeUnavailable: {"unavailable", Unanswered, blameEndpoint},
}

// Outcomes returns all outcomes of an attempt.
func Outcomes() []Outcome {
	var list []Outcome
	for o := OutcomeSuccess; o < endOfOutcomes; o++ {
		list = append(list, o)
	}
	return list
}

// String returns the outcome as the label of a metric.
func (o Outcome) String() string { return outcomes[o].label }

// Class returns what the receiver did.
func (o Outcome) Class() Class { return outcomes[o].class }

func (o Outcome) blames() blame { return outcomes[o].blame }

func (o Outcome) success() bool { return outcomes[o].class == Received }

// responded reports whether the receiver gave a complete response.
func (o Outcome) responded() bool {
	c := outcomes[o].class
	return c == Received || c == Refused
}

// ofStatus returns the outcome of a complete response.
func ofStatus(status int) Outcome {
	switch {
	case status >= 200 && status <= 299:
		return OutcomeSuccess
	case status == 410:
		return OutcomeGone
	case status == 429:
		return OutcomeThrottled
	case status >= 300 && status <= 399:
		return OutcomeRedirect
	case status >= 400 && status <= 499:
		return OutcomeClientError
	}
	return OutcomeServerError
}

// Final is how a delivery ended.
type Final uint8

// The ends of a delivery.
const (
	FinalDelivered Final = iota + 1 // received
	FinalDuplicate                  // received, and the receiver had it before
	FinalFailed                     // the last retry failed
	FinalGone                       // the receiver responded 410
	endOfFinals
)

// Finals returns all ends of a delivery.
func Finals() []Final { return []Final{FinalDelivered, FinalDuplicate, FinalFailed, FinalGone} }

// String returns the end as the label of a metric.
func (f Final) String() string {
	return [endOfFinals]string{
		FinalDelivered: "delivered", FinalDuplicate: "duplicate", FinalFailed: "failed", FinalGone: "gone",
	}[f]
}
