// Package spans adds the attempts of a delivery to the trace of the request that
// created its prediction, or that brought the event.
//
// Caddy's tracing does not export its provider, so it is taken from a traced
// request. From then on attempts are spans; a provider that was shut down makes
// none. The trace context that is stored with a delivery is sent in any case.
package spans

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Tracer makes spans once it has seen a traced request. It is safe for
// concurrent use. The zero value has seen none.
type Tracer struct {
	provider atomic.Pointer[trace.TracerProvider]
}

// Seen takes the provider of a traced request from its context.
func (t *Tracer) Seen(ctx context.Context) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		p := span.TracerProvider()
		t.provider.Store(&p)
	}
}

// scope is the instrumentation scope.
const scope = "github.com/caddy-replicate/replicate-webhook"

// Attempt starts the span of an attempt, and sets the request's headers to its own
// context. It is a child of the trace context that is stored with a delivery, or, of
// an event for the app, of the one in the headers. The function that it returns ends
// the span; it takes the HTTP status, 0 if there was no response, and why the
// attempt failed. It is delivery.Config's Trace.
func (t *Tracer) Attempt(ctx context.Context, d *store.Delivery, attempt int, h http.Header) (context.Context, func(status int, err error)) {
	provider := t.provider.Load()
	if provider == nil {
		return ctx, func(int, error) {}
	}
	format := propagation.TraceContext{}
	attributes := []attribute.KeyValue{
		attribute.String("http.request.method", http.MethodPost),
		attribute.String("replicate_webhook.delivery", d.ID),
		attribute.Int("replicate_webhook.attempt", attempt),
	}
	var name string
	if in := d.Inbound; in != nil {
		ctx = format.Extract(ctx, propagation.HeaderCarrier(h))
		name = strings.TrimSpace("forward " + in.Name)
		attributes = append(attributes,
			attribute.String("replicate_webhook.scope", in.Scope),
			attribute.String("replicate_webhook.prediction", in.PredictionID),
			attribute.String("replicate_webhook.event", in.Name))
	} else {
		ctx = format.Extract(ctx, propagation.MapCarrier{"traceparent": d.Traceparent})
		name = "deliver " + d.Event.Name()
		attributes = append(attributes,
			// The path and query are a secret of the receiver's at times.
			attribute.String("replicate_webhook.endpoint", store.EndpointOf(d.URL)),
			attribute.String("replicate_webhook.prediction", d.PredictionID),
			attribute.String("replicate_webhook.event", d.Event.Name()))
	}
	ctx, span := (*provider).Tracer(scope).Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	format.Inject(ctx, propagation.HeaderCarrier(h))
	return ctx, func(status int, err error) {
		if status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", status))
		}
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
