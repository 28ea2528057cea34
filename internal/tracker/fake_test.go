package tracker

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// fakeStore keeps a store's promises to the tracker in memory. Methods
// of deliveries are those of the nil Store inside, which panic.
type fakeStore struct {
	store.Store
	now   func() time.Time
	clock *clock.Clock // by now

	mu      sync.Mutex
	err     error // of every write
	last    int64
	rows    map[int64]*row
	secrets map[string][]byte
	subs    map[chan struct{}]bool
	writes  int
	forgot  []time.Duration // ages, two by two
	log     []store.Attempt
}

type row struct {
	store.Prediction
	due     int64 // on the store's clock
	since   time.Duration
	claimed bool
	events  []store.Event
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		now: time.Now, clock: clock.NewMonotonic(time.Now), rows: make(map[int64]*row),
		secrets: make(map[string][]byte), subs: make(map[chan struct{}]bool),
	}
}

func (f *fakeStore) write() error {
	f.writes++
	return f.err
}

func (f *fakeStore) signal() {
	for c := range f.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (f *fakeStore) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// restart forgets what only a process knows.
func (f *fakeStore) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		r.claimed, r.due, r.since, r.PollFailures = false, 0, f.clock.Passed(), 0
	}
}

func (f *fakeStore) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeStore) Reserve(_ context.Context, p store.Prediction) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(); err != nil {
		return 0, err
	}
	f.last++
	p.Ref = f.last
	f.rows[p.Ref] = &row{Prediction: p}
	return p.Ref, nil
}

func (f *fakeStore) Abandon(_ context.Context, ref int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.rows[ref]; r != nil && r.ID == "" {
		delete(f.rows, ref)
	}
	return f.write()
}

func (f *fakeStore) Track(_ context.Context, p *store.Prediction, happened []store.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(); err != nil {
		return err
	}
	r := f.rows[p.Ref]
	if r == nil {
		for _, known := range f.rows {
			if known.API == p.API && known.ID == p.ID {
				r = known
			}
		}
	}
	if r == nil {
		f.last++
		r = &row{Prediction: store.Prediction{Ref: f.last}, since: f.clock.Passed()}
		f.rows[f.last] = r
	}
	ref, before, failures := r.Ref, r.Seen, r.PollFailures
	r.Prediction = *p
	r.Ref, r.Seen, r.PollFailures, r.due = ref, before, failures, f.clock.At(p.PollAt)
	r.emit(happened)
	*p = r.Prediction
	f.signal()
	return nil
}

func (r *row) emit(happened []store.Event) {
	for _, h := range happened {
		if !r.Seen.Has(h.Kind) && !r.Seen.Has(event.Terminal) {
			r.Seen |= h.Kind
			r.events = append(r.events, h)
		}
	}
	if r.Seen.Has(event.Terminal) {
		r.Credential, r.claimed = nil, false
	}
}

func (f *fakeStore) Observe(_ context.Context, ref int64, id string, happened []store.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(); err != nil {
		return err
	}
	r := f.rows[ref]
	if r == nil {
		return store.ErrNotFound
	}
	if r.ID == "" {
		r.ID = id
	}
	r.emit(happened)
	return nil
}

func (f *fakeStore) SetWebhook(_ context.Context, ref int64, url string, events event.Set) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(); err != nil {
		return err
	}
	f.rows[ref].URL, f.rows[ref].Events = url, events
	return nil
}

func (f *fakeStore) find(match func(*row) bool) (store.Prediction, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		if match(r) {
			return r.Prediction, nil
		}
	}
	return store.Prediction{}, store.ErrNotFound
}

func (f *fakeStore) Prediction(_ context.Context, api, id string) (store.Prediction, error) {
	return f.find(func(r *row) bool { return r.API == api && r.ID == id })
}

func (f *fakeStore) ByToken(_ context.Context, token []byte) (store.Prediction, error) {
	return f.find(func(r *row) bool { return r.Token != nil && bytes.Equal(r.Token, token) })
}

func (f *fakeStore) Attempts(context.Context, int64, int64, int) ([]store.Attempt, error) {
	return slices.Clone(f.log), nil
}

func (f *fakeStore) Redeliver(_ context.Context, ref int64, _ int64) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rows[ref]
	last := r.events[len(r.events)-1]
	r.events = append(r.events, store.Event{Kind: last.Kind, Payload: last.Payload})
	return "dlv", f.write()
}

func (r *row) polled() bool {
	return r.ID != "" && r.PollPath != "" && !r.Seen.Has(event.Terminal)
}

func (f *fakeStore) ClaimPolls(_ context.Context, limit int) (out []store.Prediction, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ref := range slices.Sorted(maps.Keys(f.rows)) {
		r := f.rows[ref]
		switch {
		case !r.polled() || r.claimed:
		case len(out) < limit && r.due <= f.clock.Now():
			r.claimed = true
			r.Watched = f.clock.Passed() - r.since
			out = append(out, r.Prediction)
		case next.IsZero() || r.due < f.clock.At(next):
			next = f.clock.Time(r.due)
		}
	}
	return out, next, nil
}

func (f *fakeStore) PollAgain(_ context.Context, p store.Prediction, due time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.rows[p.Ref]; r != nil {
		r.claimed, r.due, r.PollFailures = false, f.clock.At(due), p.PollFailures
	}
	f.signal()
	return nil
}

func (f *fakeStore) Changed() (<-chan struct{}, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{}, 1)
	f.subs[c] = true
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, c)
	}
}

func (f *fakeStore) Secret(_ context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.secrets[name]; ok {
		return s, nil
	}
	if err := f.write(); err != nil {
		return nil, err
	}
	s, err := make()
	if err == nil {
		f.secrets[name] = s
	}
	return s, err
}

func (f *fakeStore) Forget(_ context.Context, before store.Before) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgot = append(f.forgot, f.now().Sub(before.Deliveries), f.now().Sub(before.Predictions))
	return nil
}

// events of a prediction by name, in order.
func (f *fakeStore) events(id string) (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		if r.ID == id {
			for _, h := range r.events {
				names = append(names, h.Kind.Name())
			}
		}
	}
	return names
}

// payload of a prediction's last event.
func (f *fakeStore) payload(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		if r.ID == id && len(r.events) > 0 {
			return string(r.events[len(r.events)-1].Payload)
		}
	}
	return ""
}

func (f *fakeStore) row(t *testing.T, id string) store.Prediction {
	t.Helper()
	p, err := f.find(func(r *row) bool { return r.ID == id })
	if err != nil {
		t.Fatalf("%s is not in the store", id)
	}
	return p
}

func (f *fakeStore) writeCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// damage flips a bit in a prediction's credential.
func (f *fakeStore) damage(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.rows {
		if p.ID == id {
			p.Credential = bytes.Clone(p.Credential)
			p.Credential[len(p.Credential)-1] ^= 1
		}
	}
}
