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

// Notifications only save time. What a lost one told is found by a rescan: a claim
// after a second, deliveries and polls with the next heartbeat.

// listener sends notifications to the other nodes and receives theirs.
type listener struct {
	s       *Store
	channel string
	waiters waiters
	// notifying has one place, for whoever sends.
	notifying chan struct{}
}

func (l *listener) init(s *Store) {
	l.s, l.notifying = s, make(chan struct{}, 1)
	l.waiters.init()
}

// waiters are the callers that wait for claims of other nodes, by key.
type waiters struct {
	mu      sync.Mutex
	waiting map[store.Key]map[chan struct{}]bool
}

func (w *waiters) init() { w.waiting = make(map[store.Key]map[chan struct{}]bool) }

// subscribe returns a channel that is signaled when one of the keys may be free.
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

// signal signals the callers that wait for a key.
func (w *waiters) signal(k store.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.waiting[k] {
		signal(c)
	}
}

// signalAll signals all callers.
func (w *waiters) signalAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range w.waiting {
		for c := range waiting {
			signal(c)
		}
	}
}

// signal sends to a channel of capacity 1, unless it is full.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// notifyClaims notifies other nodes that keys are free. An error is ignored: they
// find that by a rescan.
func (l *listener) notifyClaims(keys []store.Key) {
	if len(keys) == 0 {
		return
	}
	payloads := make([]string, len(keys))
	for i, k := range keys {
		payloads[i] = "k" + hex.EncodeToString(k[:])
	}
	_ = l.notify(payloads...)
}

// notify sends notifications to all nodes.
func (l *listener) notify(payloads ...string) error {
	return l.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		return execute(ctx, conn, "SELECT pg_notify($1, p) FROM unnest($2::text[]) p", l.channel, payloads)
	})
}

// listenInterval is the delay before the node tries again to listen.
const listenInterval = time.Second

// listenLoop receives the notifications of other nodes. A pooler passes none on, so
// that behind one without a listen_dsn the node finds everything by rescans.
func (l *listener) listenLoop(c *connector) {
	defer l.s.working.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-l.s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	missing := false
	for ctx.Err() == nil {
		err := l.listen(ctx, c, &missing)
		if !missing && ctx.Err() == nil {
			missing = true
			l.s.opts.Logger().Warn("receives no notifications of other nodes: what they change is noticed a second or two later", zap.String("store", l.s.name), zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenInterval):
		}
		if errors.Is(err, errNotifications) && c == l.s.connector {
			<-ctx.Done() // dsn will go on leading to the pooler
		}
	}
}

var errNotifications = errors.New("the connection leads to a pooler, which passes no notifications on: set listen_dsn to the server itself")

// listen listens until the connection breaks.
func (l *listener) listen(ctx context.Context, c *connector, missing *bool) error {
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
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM webhook_nodes WHERE id = $1)", l.s.nodes.id.Load()).Scan(&same)
	switch {
	case err != nil:
		return fmt.Errorf("reading the tables of the store by listen_dsn: %w", err)
	case !same:
		return errors.New("listen_dsn leads to another database or schema than dsn")
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.channel}.Sanitize()); err != nil {
		return err
	}
	if *missing {
		*missing = false
		l.s.opts.Logger().Info("receives notifications of other nodes again", zap.String("store", l.s.name))
	}
	l.waiters.signalAll() // for what was sent while the node did not listen
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		l.handleNotification(n.Payload)
	}
}

// handleNotification acts on a notification of another node.
func (l *listener) handleNotification(payload string) {
	if payload == "" {
		return
	}
	switch payload[0] {
	case 'k':
		if b, err := hex.DecodeString(payload[1:]); err == nil && len(b) == len(store.Key{}) {
			l.waiters.signal(store.Key(b))
		}
	case 'd': // deliveries or polls may be due
		if payload[1:] != strconv.FormatInt(l.s.nodes.id.Load(), 10) {
			l.s.queue.requestRescan()
		}
	case 'p': // an inbox was paused or resumed, or a signing key rotated
		signal(l.s.inbox.reload)
	case 'n': // a node has left
		signal(l.s.health.trouble)
	}
}
