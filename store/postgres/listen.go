package postgres

import (
	"context"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Notifications only save time. What is missed is found by looking again: a
// claim after a second, deliveries and polls with the next beat.

// wakes are the callers that wait for claims of other nodes.
type wakes struct {
	mu      sync.Mutex
	waiting map[store.Key]map[chan struct{}]bool
}

func (w *wakes) init() { w.waiting = make(map[store.Key]map[chan struct{}]bool) }

// subscribe gives a channel that is signalled when one of the keys is free.
func (w *wakes) subscribe(keys []store.Key) (signal <-chan struct{}, unsubscribe func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		if w.waiting[k] == nil {
			w.waiting[k] = make(map[chan struct{}]bool, 1)
		}
		w.waiting[k][c] = true
	}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, k := range keys {
			delete(w.waiting[k], c)
			if len(w.waiting[k]) == 0 {
				delete(w.waiting, k)
			}
		}
	}
}

func (w *wakes) wake(k store.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.waiting[k] {
		signal(c)
	}
}

func (w *wakes) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range w.waiting {
		for c := range waiting {
			signal(c)
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// notifyClaims tells other nodes that keys are free. An error means that they
// find out by themselves.
func (s *Store) notifyClaims(keys []store.Key) {
	if len(keys) == 0 {
		return
	}
	payloads := make([]string, len(keys))
	for i, k := range keys {
		payloads[i] = "k" + hex.EncodeToString(k[:])
	}
	_ = s.notify(payloads...)
}

func (s *Store) notify(payloads ...string) error {
	return s.use(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_notify($1, p) FROM unnest($2::text[]) p", s.channel, payloads)
		return err
	})
}

// listenEvery is how often a connection to listen on is tried for.
const listenEvery = time.Second

// listenLoop hears what other nodes notify.
func (s *Store) listenLoop(conf *pgx.ConnConfig) {
	defer s.working.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		s.listen(ctx, conf)
		select {
		case <-ctx.Done():
		case <-time.After(listenEvery):
		}
	}
}

func (s *Store) listen(ctx context.Context, conf *pgx.ConnConfig) {
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return
	}
	defer func() {
		within, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = conn.Close(within)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.channel}.Sanitize()); err != nil {
		return
	}
	s.wakes.wakeAll() // whatever came while nobody listened
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return
		}
		s.heard(n.Payload)
	}
}

// heard takes a notification in.
func (s *Store) heard(payload string) {
	if payload == "" {
		return
	}
	switch payload[0] {
	case 'k':
		if b, err := hex.DecodeString(payload[1:]); err == nil && len(b) == len(store.Key{}) {
			s.wakes.wake(store.Key(b))
		}
	case 'd': // something is due
		if payload[1:] != strconv.FormatInt(s.nodes.id.Load(), 10) {
			s.queue.lookAgain()
		}
	case 'n': // a node has left
		signal(s.health.trouble)
	}
}
