package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// probeWait is how long new work waits to learn whether a database that was
	// unavailable is available again.
	probeWait = 500 * time.Millisecond
	// outageWait is how long work that was begun waits for a database that is
	// unavailable. A restart takes about as long.
	outageWait = 3 * time.Second
)

// health says whether the database takes writes.
type health struct {
	s *Store

	// down is the reason why it does not, or nil.
	down atomic.Pointer[error]
	// trouble makes the keep loop send a heartbeat at once.
	trouble chan struct{}

	mu sync.Mutex
	// next is closed at the end of the next heartbeat that begins.
	next chan struct{}
}

func (h *health) init(s *Store) {
	h.s = s
	h.trouble, h.next = make(chan struct{}, 1), make(chan struct{})
}

// begin returns the function that ends a heartbeat.
func (h *health) begin() (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	current := h.next
	h.next = make(chan struct{})
	return func() { close(current) }
}

// available returns the reason why nothing can be committed now, or nil. A node
// whose heartbeats have failed for too long must not begin anything: others may have
// taken over what it holds.
func (h *health) available() error {
	if err := h.down.Load(); err != nil {
		return *err
	}
	if !h.s.nodes.held() {
		return fmt.Errorf("%w: %s has not responded for too long", store.ErrUnavailable, h.s.name)
	}
	return nil
}

// probe is like available, but if the database is unavailable, it first waits for a
// heartbeat, at most probeWait.
func (h *health) probe(ctx context.Context) error {
	err := h.available()
	if err == nil {
		return nil
	}
	h.mu.Lock()
	next := h.next
	h.mu.Unlock()
	signal(h.trouble)
	timeout := time.NewTimer(probeWait)
	defer timeout.Stop()
	select {
	case <-next:
	case <-timeout.C:
	case <-ctx.Done():
	case <-h.s.stop:
		return err
	}
	return h.available()
}

// await probes until the database is available, at most for the given time.
func (h *health) await(ctx context.Context, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; {
		err := h.probe(ctx)
		if err == nil || ctx.Err() != nil || h.s.closed() != nil || !time.Now().Before(deadline) {
			return err
		}
	}
}

// failed notes that the database is unavailable, because of err. It returns the error
// for callers.
func (h *health) failed(err error) error {
	full := serverFull(err)
	err = fmt.Errorf("%w: committing to %s: %w", store.ErrUnavailable, h.s.name, err)
	if h.down.Swap(&err) == nil {
		h.s.opts.Logger().Error("store takes no writes", zap.Error(err))
		if !full {
			// All connections may be broken. After a failover all lead to
			// what is now a replica.
			h.s.pool.Reset()
		}
	}
	signal(h.trouble)
	return err
}

// recovered notes that a heartbeat has succeeded.
func (h *health) recovered() {
	if h.down.Swap(nil) != nil {
		h.s.opts.Logger().Info("store takes writes again", zap.String("store", h.s.name))
	}
	h.s.claims.Resume()
}
