package store

import (
	"hash/fnv"
	"strconv"
	"strings"
	"time"
)

// Lane identifies a queue of deliveries: those of one client to one endpoint, or
// those of the client to one URL of the endpoint while that URL fails.
type Lane struct {
	// Endpoint is as EndpointOf returns it.
	Endpoint string
	// Client is the identity of the client. It is empty where a delivery was
	// stored before lanes were known.
	Client string
	// URL is a hash of the URL, 0 for all URLs that have no lane of their
	// own.
	URL uint64
}

// LaneOf returns the lane of a client's deliveries to the endpoint of a URL.
func LaneOf(client, url string) Lane { return Lane{Endpoint: EndpointOf(url), Client: client} }

// Only returns the lane of the client's deliveries to this URL of the endpoint.
func (l Lane) Only(url string) Lane {
	h := fnv.New64a()
	_, _ = h.Write([]byte(url))
	l.URL = max(h.Sum64(), 1)
	return l
}

// Takes reports whether a client's deliveries to a URL may wait in the lane.
func (l Lane) Takes(client, url string) bool {
	own := LaneOf(client, url)
	return l == own || l.URL != 0 && l == own.Only(url)
}

// String returns the lane as text, which ParseLane reads.
func (l Lane) String() string {
	s := l.Endpoint + "\x00" + l.Client
	if l.URL != 0 {
		s += "\x00" + strconv.FormatUint(l.URL, 16)
	}
	return s
}

// ParseLane returns the lane that String returned the text of. Any other text is
// taken for an endpoint.
func ParseLane(s string) Lane {
	var l Lane
	l.Endpoint, s, _ = strings.Cut(s, "\x00")
	// A client's identity is chosen elsewhere: it may hold any byte.
	if i := strings.LastIndexByte(s, 0); i >= 0 {
		if n, err := strconv.ParseUint(s[i+1:], 16, 64); err == nil {
			s, l.URL = s[:i], n
		}
	}
	l.Client = s
	return l
}

// Slots is how many more deliveries of a lane may be claimed.
type Slots struct {
	N int
	// DueBy limits them to those that were due at this time, unless it is
	// zero.
	DueBy time.Time
}

// Outage is an endpoint, or a client's URL on it, whose breaker is open.
type Outage struct {
	// Lane has no Client for an endpoint, and a URL for a client's URL.
	Lane  Lane
	Since time.Time
	// Reason is the failure that began it.
	Reason string
}

// Span is a time in which a process was running.
type Span struct{ Began, Ended time.Time }

// Witnessed returns spans with the present added to them: to the last one, if it
// ended no longer ago than grace, else as a new one. A span that lies in the
// future comes from a clock that was wrong, and is dropped.
func Witnessed(spans []Span, now time.Time, grace time.Duration) []Span {
	var out []Span
	for _, s := range spans {
		if s.Began.After(now) {
			continue
		}
		if s.Ended.After(now) {
			s.Ended = now
		}
		out = append(out, s)
	}
	if n := len(out); n > 0 && now.Sub(out[n-1].Ended) <= grace {
		out[n-1].Ended = now
		return out
	}
	return append(out, Span{Began: now, Ended: now})
}
