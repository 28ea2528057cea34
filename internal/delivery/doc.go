// Package delivery sends signed webhooks and retries them until their receivers
// have them.
//
// An [Engine] claims due deliveries from a store, makes one HTTP attempt for
// each, and commits the outcome together with what follows from it: delivered,
// due again, or given up. Everything that must last is in the store. A delivery
// whose outcome could not be committed before the process ended is attempted
// again, so each is made at least once.
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
// disables the webhook. Everything else is retried after 1, 2, 4, 8 and 16 s, or
// whatever [Retry] says, or later if Retry-After asks for that.
//
// # Endpoints
//
// Receivers share limits by endpoint, which is scheme, host and port:
// concurrency, a rate, and a breaker that counts failures in a row. An attempt
// without a complete response is a failure of the endpoint. A response other than
// 2xx is a failure of the client's URL alone, which has a breaker of its own.
// While a breaker is open its deliveries wait without using up attempts. Then one
// of them goes first and decides for the rest.
//
// # Fairness
//
// Receivers that hang must not delay the others, although each holds an attempt
// for the whole timeout and there may be more of them than workers. Three rules
// see to that:
//
//  1. An attempt holds its worker for 100 ms at most. If it has no response by
//     then it moves to the overflow, which has eight places for each worker, as
//     long as there is a place. Attempts in flight are therefore bounded by nine
//     times Workers, of which all but Workers only wait.
//  2. An endpoint is trusted with more than one attempt at a time for one second
//     after each response, or twice the time that the response took if that is
//     longer. An attempt without a response ends the trust. An endpoint that is
//     not trusted needs a place in the overflow before it begins, so a full
//     overflow delays no endpoint that responds.
//  3. A trusted endpoint gets half of the workers that are free, and one at
//     least, however high its concurrency is set.
//
// The payloads in memory are bounded as well: with 256 MiB of them no more are
// claimed.
package delivery
