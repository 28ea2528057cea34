// Package tracing_test reads the OpenTelemetry spans that a running Caddy exports.
package tracing_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
)

// traces is a collector of OpenTelemetry spans.
type traces struct {
	t     *testing.T
	mu    sync.Mutex
	spans []*trace.Span
}

// collect starts a collector and points Caddy's exporter at it.
func collect(t *testing.T) *traces {
	t.Helper()
	c := &traces{t: t}
	server := httptest.NewServer(c)
	// The exporter leaves its connection open when it is shut down.
	server.Config.SetKeepAlivesEnabled(false)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	return c
}

func (c *traces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var export collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &export) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// named waits for n spans of a trace whose names begin so.
func (c *traces) named(traceID, prefix string, n int) (found []*trace.Span) {
	c.t.Helper()
	caddyrun.Until(c.t, fmt.Sprintf("%d spans %q of trace %s", n, prefix, traceID), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		found = nil
		for _, span := range c.spans {
			if strings.HasPrefix(span.Name, prefix) && hex.EncodeToString(span.TraceId) == traceID {
				found = append(found, span)
			}
		}
		return len(found) >= n
	})
	return found
}

func attribute(span *trace.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			if s := a.Value.GetStringValue(); s != "" {
				return s
			}
			return fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return ""
}

const (
	clientTrace = "0af7651916cd43dd8448eb211c80319c"
	clientSpan  = "b7ad6b7169203331"
	traceparent = "00-" + clientTrace + "-" + clientSpan + "-01"
)

// TestAttemptsAreSpans of the trace in which the prediction was created, and
// receivers get their context.
func TestAttemptsAreSpans(t *testing.T) {
	c := collect(t)
	s := siterun.Start(t, siterun.Options{Site: []string{"tracing {\n span create\n}"}})
	s.Hook.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if strings.Contains(string(r.Got), "prediction.completed") && r.Header.Get("X-Replicate-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	id := s.Create("/hook/s3cretpath?token=s3crettoken", "Traceparent", traceparent)
	s.Settled(2)
	create := c.named(clientTrace, "create", 1)[0]
	spans := c.named(clientTrace, "deliver ", 3)
	if len(spans) != 3 {
		t.Fatalf("%d attempts are spans, want 3", len(spans))
	}
	received := make(map[string]*caddyrun.Request)
	for _, r := range s.Hook.Seen() {
		received[r.Header.Get("Traceparent")] = r
	}
	failed := 0
	for _, span := range spans {
		if string(span.ParentSpanId) != string(create.SpanId) {
			t.Errorf("%s is below %x, want the create's %x", span.Name, span.ParentSpanId, create.SpanId)
		}
		r := received["00-"+clientTrace+"-"+hex.EncodeToString(span.SpanId)+"-01"]
		if r == nil {
			t.Errorf("no receiver got the context of %s", span.Name)
			continue
		}
		for key, want := range map[string]string{
			"replicate_webhook.delivery": r.Header.Get("X-Replicate-Delivery"), "replicate_webhook.attempt": r.Header.Get("X-Replicate-Attempt"),
			"replicate_webhook.event": r.Header.Get("X-Replicate-Event"), "replicate_webhook.prediction": id,
			"replicate_webhook.endpoint": s.Hook.URL,
		} {
			if got := attribute(span, key); got != want {
				t.Errorf("%s: %s is %q, want %q", span.Name, key, got, want)
			}
		}
		if span.Status.GetCode() == trace.Status_STATUS_CODE_ERROR {
			failed++
			if attribute(span, "http.response.status_code") != "503" {
				t.Errorf("failed: %v", span)
			}
		}
		if strings.Contains(span.String(), "s3cret") {
			t.Errorf("a webhook's path is in a span: %v", span)
		}
	}
	if failed != 1 {
		t.Errorf("%d failed attempts, want 1", failed)
	}
	// The provider outlives a reload as long as something traces.
	s.Reload(s.Config(siterun.Options{Site: []string{"tracing {\n span again\n}"}}))
	s.Hook.AnswerStatus(http.StatusOK)
	rows, err := s.Admin.Prediction(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Admin.Redeliver(t.Context(), rows.Deliveries[0].ID); err != nil {
		t.Fatal(err)
	}
	c.named(clientTrace, "deliver ", 4)
}

// TestContextIsPropagatedWithoutTracing: the client's own context is stored and
// sent, whether or not Caddy traces anything.
func TestContextIsPropagatedWithoutTracing(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	s.Create("/hook", "Traceparent", traceparent)
	s.Create("/hook")
	s.Settled(4)
	got := make(map[string]int)
	for _, r := range s.Hook.Seen() {
		got[r.Header.Get("Traceparent")]++
	}
	if got[traceparent] != 2 || got[""] != 2 {
		t.Errorf("receivers got %v", got)
	}
}
