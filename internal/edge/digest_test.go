package edge

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reported collects digests as "<reason> <count>".
type reported struct {
	mu   sync.Mutex
	list []string
}

func (r *reported) add(d Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf("%s %d", d.Outcome, d.Count))
}

func (r *reported) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.list, want) {
		t.Fatalf("reported %q, want %q", r.list, want)
	}
	r.list = nil
}

func TestRefusalsAreReportedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reported
		r := NewDigests(got.add)
		forged, late := &Refusal{Status: 401, Outcome: OutcomeSignature}, &Refusal{Status: 401, Outcome: OutcomeTimestamp}
		r.Add(forged, "192.0.2.1")
		got.want(t, "signature 1")
		for range 500 {
			r.Add(forged, "192.0.2.1")
		}
		got.want(t)
		// Another reason does not wait for that.
		time.Sleep(time.Second / 2)
		r.Add(late, "192.0.2.2")
		got.want(t, "timestamp 1")
		time.Sleep(time.Second / 2)
		got.want(t, "signature 500")
		time.Sleep(time.Minute)
		got.want(t)
		if r.running || len(r.byOutcome) != 0 {
			t.Fatalf("idle, but running: %t, outcomes: %d", r.running, len(r.byOutcome))
		}
		r.Add(forged, "192.0.2.1")
		got.want(t, "signature 1")
		time.Sleep(time.Minute) // nothing is left to end
	})
}

func TestClosedDigestsReportWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reported
		r := NewDigests(got.add)
		forged := &Refusal{Status: 401, Outcome: OutcomeSignature}
		r.Add(forged, "")
		got.want(t, "signature 1")
		r.Add(forged, "")
		r.Close()
		r.Close()
		got.want(t, "signature 1")
		// A request that outlives its configuration.
		r.Add(forged, "")
		got.want(t, "signature 1")
	})
}
