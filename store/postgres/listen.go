package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Notifications only save time. What is missed is found by looking again: a
// claim after a second, deliveries and polls with the next beat.

// waiters are the callers that wait for claims of other nodes.
type waiters struct {
	mu      sync.Mutex
	waiting map[store.Key]map[chan struct{}]bool
}

func (w *waiters) init() { w.waiting = make(map[store.Key]map[chan struct{}]bool) }

// subscribe gives a channel that is signalled when one of the keys is free.
func (w *waiters) subscribe(keys []store.Key) (signal <-chan struct{}, unsubscribe func()) {
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

func (w *waiters) signal(k store.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.waiting[k] {
		signal(c)
	}
}

func (w *waiters) signalAll() {
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
		return execute(ctx, conn, "SELECT pg_notify($1, p) FROM unnest($2::text[]) p", s.channel, payloads)
	})
}

// listenEvery is how often a connection to listen on is tried for.
const listenEvery = time.Second

// listenLoop hears what other nodes notify. A pooler hands notifications to
// nobody, so behind one without a listen_dsn the node looks by itself.
func (s *Store) listenLoop(c *connector) {
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
	deaf := false
	for ctx.Err() == nil {
		err := s.listen(ctx, c, &deaf)
		if !deaf && ctx.Err() == nil {
			deaf = true
			s.opts.Logger().Warn("hears nothing of other nodes, and looks by itself, which takes a second or two longer", zap.String("store", s.name), zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenEvery):
		}
		if errors.Is(err, errNotifications) && c == s.connector {
			<-ctx.Done() // a dsn that leads to a pooler goes on doing so
		}
	}
}

var errNotifications = errors.New("the connection leads to a pooler, which passes no notifications on: set listen_dsn to the server itself")

// listen listens until the connection breaks.
func (s *Store) listen(ctx context.Context, c *connector, deaf *bool) error {
	if c.pooled.Load() {
		return errNotifications
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return explain(err)
	}
	defer disconnect(conn)
	if c.pooled.Load() {
		return errNotifications
	}
	var same bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM webhook_nodes WHERE id = $1)", s.nodes.id.Load()).Scan(&same)
	switch {
	case err != nil:
		return fmt.Errorf("reading the tables of the store by listen_dsn: %w", err)
	case !same:
		return errors.New("listen_dsn leads to another database or schema than dsn")
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.channel}.Sanitize()); err != nil {
		return err
	}
	if *deaf {
		*deaf = false
		s.opts.Logger().Info("hears of other nodes again", zap.String("store", s.name))
	}
	s.waiters.signalAll() // whatever came while nobody listened
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		s.handleNotification(n.Payload)
	}
}

// handleNotification acts on a notification of another node.
func (s *Store) handleNotification(payload string) {
	if payload == "" {
		return
	}
	switch payload[0] {
	case 'k':
		if b, err := hex.DecodeString(payload[1:]); err == nil && len(b) == len(store.Key{}) {
			s.waiters.signal(store.Key(b))
		}
	case 'd': // something is due
		if payload[1:] != strconv.FormatInt(s.nodes.id.Load(), 10) {
			s.queue.requestRescan()
		}
	case 'n': // a node has left
		signal(s.health.trouble)
	}
}
