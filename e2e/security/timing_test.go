package security_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRefusalsTakeTheSameTime: every reason for a 401 has the same response, and
// takes a time of the same order of magnitude, so that neither tells a forger
// how far a forgery came. Measured in the process, without a network's noise,
// by the median of many.
func TestRefusalsTakeTheSameTime(t *testing.T) {
	e := newEdge(t, "")
	e.quiet()
	server := httpServer(t)
	now := time.Now()
	good := payload("p1", now)
	w := both(t, whsec, "msg_1", good, now)
	stale := payload("p1", now.Add(-time.Hour))
	digest := w.header.Get("X-Replicate-Signature")
	reasons := map[string]hook{
		"no signature":             {good, http.Header{}},
		"malformed":                w.onlyReplicate().with("X-Replicate-Signature", "x"),
		"duplicated":               w.onlyReplicate().with("X-Replicate-Signature", digest, digest),
		"connection":               w.with("Connection", "webhook-id"),
		"first digit wrong":        w.onlyReplicate().with("X-Replicate-Signature", other(digest[0])+digest[1:]),
		"last digit wrong":         w.onlyReplicate().with("X-Replicate-Signature", digest[:63]+other(digest[63])),
		"another secret":           replicate(t, unknown, good),
		"standard, another secret": standard(t, unknown, "msg_1", good, now),
		"standard, stale":          standard(t, whsec, "msg_1", good, now.Add(-time.Hour)),
		"stale":                    replicate(t, whsec, stale),
		"both, one wrong":          w.with("X-Replicate-Signature", digest[:63]+other(digest[63])),
		"body changed":             w.onlyReplicate().withBody(strings.Replace(good, "p1", "p2", 1)),
		"not JSON":                 w.onlyReplicate().withBody(good[1:]),
	}
	names := slices.Sorted(maps.Keys(reasons))
	took := make(map[string][]time.Duration)
	var first string
	const rounds = 301
	for range rounds {
		for _, name := range names {
			w := reasons[name]
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.ServerContextKey, new(http.Server)),
				http.MethodPost, route, io.NopCloser(bytes.NewReader([]byte(w.body))))
			r.Host, r.ContentLength, r.Header = "127.0.0.1", int64(len(w.body)), w.header.Clone()
			rec := httptest.NewRecorder()
			start := time.Now()
			server.ServeHTTP(rec, r)
			took[name] = append(took[name], time.Since(start))
			rec.Header().Del("Connection") // tells whether the body was read
			got := fmt.Sprint(rec.Code, rec.Header(), rec.Body)
			if first == "" {
				first = got
			}
			if rec.Code != http.StatusUnauthorized || got != first {
				t.Fatalf("%s: got %s, another got %s", name, got, first)
			}
		}
	}
	median := func(name string) time.Duration {
		slices.Sort(took[name])
		return took[name][rounds/2]
	}
	fastest, slowest := names[0], names[0]
	for _, name := range names {
		if median(name) < median(fastest) {
			fastest = name
		}
		if median(name) > median(slowest) {
			slowest = name
		}
	}
	t.Logf("fastest: %s in %s, slowest: %s in %s", fastest, median(fastest), slowest, median(slowest))
	if median(slowest) > 10*median(fastest) {
		t.Errorf("%s takes %s, %s takes %s: an order of magnitude apart", slowest, median(slowest), fastest, median(fastest))
	}
}

// other is another hexadecimal digit.
func other(digit byte) string {
	if digit == '0' {
		return "1"
	}
	return "0"
}
