// Package delivery sends signed webhooks and keeps at it until their receivers
// have them.
//
// An [Engine] claims due deliveries from a store, makes one HTTP attempt for
// each, and commits what came of it together with what follows: delivered, due
// again, or given up. All that must last is in the store. A delivery whose
// outcome could not be committed before the process ended is made again, so
// each is made at least once.
//
// # Attempts
//
// An attempt posts the payload as it is, with the headers
//
//	Content-Type: application/json
//	User-Agent, X-Replicate-Signature
//	X-Replicate-Event, X-Replicate-Delivery, X-Replicate-Attempt
//	Webhook-Id, Webhook-Timestamp, Webhook-Signature (for whsec_ secrets)
//	Traceparent (if the delivery has one)
//
// A 2xx is a success. A redirect is not followed. 410 ends the delivery and
// disables the webhook. Everything else is tried again after 1, 2, 4, 8 and
// 16 s, or whatever [Retry] says, or later where Retry-After asks for that.
//
// # Endpoints
//
// Receivers share limits by endpoint, which is scheme, host and port:
// concurrency, a rate, and a breaker that counts failures in a row. Connection
// errors, timeouts, 5xx and 429 are failures of the endpoint. Other answers are
// about one delivery; they count as failed attempts but not against the
// endpoint. While the breaker is open the endpoint's deliveries wait without
// using up attempts; then one goes first and decides for the rest.
//
// # Fairness
//
// Receivers that hang must not delay the others, although each holds an
// attempt for the whole timeout and there may be more of them than workers.
// Three rules see to that:
//
//  1. An attempt holds its worker for 100 ms at most. If it has no answer by
//     then it moves to a waiting room with eight places per worker, as long as
//     there is one. Attempts in flight are therefore bounded by nine times
//     Workers, of which all but Workers only wait.
//  2. An endpoint is trusted with more than one attempt at a time for one
//     second after each answer, or twice the time that the answer took if
//     that is longer. An attempt without an answer ends the trust. An
//     endpoint that is not trusted needs a place in the waiting room before it
//     begins, so a full room delays nobody who answers.
//  3. A trusted endpoint gets half of the workers that are free, and one at
//     least, however high its concurrency is set.
//
// The payloads in memory are bounded as well: with 256 MiB of them no more are
// claimed.
package delivery
