package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/heap"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// memStore is the delivery part of the store contract, in memory.
type memStore struct {
	mu       sync.Mutex
	lanes    map[store.Lane]*memLane
	apart    map[string]bool // deliveries that wait in their URL's lane
	outages  map[store.Lane]store.Outage
	spans    []store.Span
	due      heap.Heap[*memLane] // lanes that are neither empty nor parked
	claimed  map[string]store.Delivery
	double   []string // deliveries that ended without a claim
	log      []store.Outcome
	keep     bool // the log
	subs     map[chan struct{}]bool
	down     error
	complete func(o *store.Outcome) error // may refuse
	ended    func(o *store.Outcome)       // hears of every commit
	claims   int
	lost     map[string]bool // claims that are another's
	pausesMu sync.Mutex
	pauses   []store.Span // of every scope
}

type memItem struct {
	heap.Node
	store.Delivery
	due time.Time
}

// Before orders the items of a lane.
func (i *memItem) Before(other *memItem) bool { return i.due.Before(other.due) }

type memLane struct {
	heap.Node
	key    store.Lane
	items  heap.Heap[*memItem]
	parked bool
}

// Before orders lanes by their first item.
func (l *memLane) Before(other *memLane) bool { return l.items[0].due.Before(other.items[0].due) }

func newMemStore() *memStore {
	return &memStore{lanes: map[store.Lane]*memLane{}, apart: map[string]bool{}, outages: map[store.Lane]store.Outage{}, claimed: map[string]store.Delivery{}, subs: map[chan struct{}]bool{}, keep: true}
}

// add queues a delivery to a URL and gives its ID.
func (s *memStore) add(id, url string) {
	s.addAt(time.Now(), store.Delivery{
		ID: id, URL: url, Client: "client", PredictionID: "p-" + id, Event: event.Completed, CreatedAt: time.Now(),
		Payload: []byte(`{"event":"prediction.completed","id":"` + id + `"}`),
	})
}

func (s *memStore) addAt(due time.Time, d store.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.push(&memItem{Delivery: d, due: due})
	s.signal()
}

func (s *memStore) push(i *memItem) {
	key := store.LaneOf(i.Client, i.URL)
	if i.Inbound != nil {
		key = store.InboxLane(i.Inbound.Scope)
	}
	if s.apart[i.ID] {
		key = key.Only(i.URL)
		delete(s.apart, i.ID)
	}
	l := s.lanes[key]
	if l == nil {
		l = &memLane{key: key}
		s.lanes[key] = l
	}
	l.items.Push(i)
	s.settle(l)
}

func (s *memStore) settle(l *memLane) {
	if l.Queued() {
		s.due.Remove(l)
	}
	if len(l.items) > 0 && !l.parked {
		s.due.Push(l)
	}
}

func (s *memStore) signal() {
	for c := range s.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *memStore) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

func (s *memStore) ClaimDeliveries(_ context.Context, limit int, slots func(store.Lane) store.Slots) (claimed []store.Delivery, next time.Time, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims++
	now := time.Now()
	for len(s.due) > 0 && len(claimed) < limit && !s.due[0].items[0].due.After(now) {
		l := s.due[0]
		given := slots(l.key)
		n, by := given.N, now
		if !given.DueBy.IsZero() {
			by = given.DueBy
		}
		for ; n > 0 && len(claimed) < limit && len(l.items) > 0 && !l.items[0].due.After(by); n-- {
			i := l.items.Pop()
			i.Lane, i.DueAt = l.key, i.due
			if _, twice := s.claimed[i.ID]; twice {
				s.double = append(s.double, i.ID)
			}
			s.claimed[i.ID] = i.Delivery
			claimed = append(claimed, i.Delivery)
		}
		more := len(l.items) > 0 && !l.items[0].due.After(now)
		if more && n > 0 && !l.items[0].due.After(by) {
			break // limit
		}
		l.parked = more
		s.settle(l)
	}
	if len(s.due) > 0 {
		next = s.due[0].items[0].due
	}
	return claimed, next, nil
}

func (s *memStore) Resume(lanes ...store.Lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range lanes {
		if l := s.lanes[key]; l != nil && l.parked {
			l.parked = false
			s.settle(l)
			s.signal()
		}
	}
}

func (s *memStore) Holds(d store.Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost[d.ID]
}

func (s *memStore) Pauses(string) []store.Span {
	s.pausesMu.Lock()
	defer s.pausesMu.Unlock()
	return s.pauses
}

// accept queues an event for the app of a scope.
func (s *memStore) accept(n int64, scope string) {
	s.addAt(time.Now(), store.Delivery{
		ID: fmt.Sprint("event-", n), N: n, PredictionID: fmt.Sprint("p-", n), CreatedAt: time.Now(), WaitingSince: time.Now(),
		Inbound: &store.Inbound{Scope: scope, Name: "prediction.completed"}, Payload: []byte("{}"),
	})
}

func (s *memStore) SetApart(_ context.Context, d store.Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(d)
	s.apart[d.ID] = true
	s.push(&memItem{Delivery: d, due: d.DueAt})
	s.signal()
	return nil
}

func (s *memStore) Outages(context.Context) (out []store.Outage, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.outages {
		out = append(out, o)
	}
	return out, nil
}

func (s *memStore) BeginOutage(_ context.Context, o store.Outage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.outages[o.Lane]; !known {
		s.outages[o.Lane] = o
	}
	return nil
}

func (s *memStore) EndOutage(_ context.Context, lane store.Lane) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.outages, lane)
	return nil
}

func (s *memStore) Witness(_ context.Context, grace time.Duration) ([]store.Span, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = store.Witnessed(s.spans, time.Now().Round(0), grace)
	return s.spans, nil
}

// Complete commits also when the context has ended: a store may have begun to.
func (s *memStore) Complete(_ context.Context, o store.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.complete != nil {
		if err := s.complete(&o); err != nil {
			return err
		}
	}
	s.release(o.Delivery)
	if s.keep {
		s.log = append(s.log, o)
	}
	if o.Disposition == store.Retry {
		d := o.Delivery
		d.Attempts = o.Attempt.Number
		if o.Refused {
			d.Refusals++
		}
		if o.Apart {
			s.apart[d.ID] = true
		}
		s.push(&memItem{Delivery: d, due: o.Due})
	}
	if s.ended != nil {
		s.ended(&o)
	}
	s.signal()
	return nil
}

func (s *memStore) release(d store.Delivery) {
	if _, ok := s.claimed[d.ID]; !ok {
		s.double = append(s.double, d.ID)
	}
	delete(s.claimed, d.ID)
	if l := s.lanes[d.Lane]; l != nil && l.parked {
		l.parked = false
		s.settle(l)
	}
}

func (s *memStore) Postpone(_ context.Context, d store.Delivery, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(d)
	s.push(&memItem{Delivery: d, due: due})
	s.signal()
	return nil
}

func (s *memStore) Changed() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[c] = true
	for _, l := range s.lanes {
		l.parked = false
		s.settle(l)
	}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, c)
	}
}

// outcomes gives what was committed, and checks that no delivery was claimed
// or ended twice at once.
func (s *memStore) outcomes(t testing.TB) []store.Outcome {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.double) > 0 {
		t.Errorf("doubled claims: %v", s.double)
	}
	return append([]store.Outcome(nil), s.log...)
}

// roundTrip is a network of one function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// status answers with a status and headers given as name, value pairs.
func status(code int, header ...string) *http.Response {
	r := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), ContentLength: 0}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// hang never answers.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

var errRefused = errors.New("refused")

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func secret(t testing.TB, text string) signature.Secret {
	t.Helper()
	s, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// secrets gives the same secrets to every client, newest first.
func secrets(t testing.TB, texts ...string) func(context.Context, string) ([]signature.Secret, error) {
	var list []signature.Secret
	for _, text := range texts {
		list = append(list, secret(t, text))
	}
	return func(context.Context, string) ([]signature.Secret, error) { return list, nil }
}

// engine makes an engine over s and a fake network, and starts it. It is
// stopped when the test ends.
func engine(t testing.TB, s *memStore, network roundTrip, configure ...func(*Config)) *Engine {
	t.Helper()
	conf := Config{Store: s, Secrets: secrets(t, testSecret), Client: &http.Client{Transport: network}}
	for _, f := range configure {
		f(&conf)
	}
	e, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Wait(ctx); err != nil {
			t.Errorf("waiting for the engine: %v", err)
		}
	})
	return e
}

func hostURL(i int) string { return fmt.Sprintf("https://host%d.example/hook", i) }

// connect does what a network does that has a connection for a request.
func connect(r *http.Request) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Conn: a})
	return r.Context().Err()
}
