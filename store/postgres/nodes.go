package postgres

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// A heartbeat increments a node's count in its row of webhook_nodes. If another node
// could read the table for the time of a lease and saw no change of the count, then
// the node is gone: its row is deleted, and others take over what carries its id. No
// clock matters but the observer's monotonic one, so that neither a wrong clock nor a
// database that was unavailable for a while makes a node look gone. A node that finds
// its own row deleted registers again under a new id and holds nothing.

const (
	// beatsPerLease is how many heartbeats a node sends in the time of a lease.
	beatsPerLease = 8
	// probeInterval is how often an unavailable database is tried again.
	probeInterval = 100 * time.Millisecond
)

// nodes is what a node knows of itself and of the others. It keeps this one registered,
// and takes over what nodes held that are gone.
type nodes struct {
	s *Store

	// id is this node's, 0 before it is registered.
	id    atomic.Int64
	lease time.Duration
	// confirmed is when the last successful heartbeat was sent.
	confirmed atomic.Pointer[time.Time]

	mu   sync.Mutex
	seen map[int64]sighting
}

// sighting is the last change of a node's count.
type sighting struct {
	beat int64
	at   time.Time
}

// held reports whether this node certainly still owns what it holds.
func (n *nodes) held() bool {
	last := n.confirmed.Load()
	return last != nil && time.Since(*last) < n.lease*9/10
}

// register inserts this node under a new id.
func (n *nodes) register(ctx context.Context, conn *pgx.Conn) error {
	sent := time.Now()
	var id int64
	var database time.Time
	err := conn.QueryRow(ctx, "INSERT INTO webhook_nodes (id) VALUES (nextval('webhook_node_ids')) RETURNING id, clock_timestamp()").Scan(&id, &database)
	if err != nil {
		return err
	}
	n.s.checkClock(sent, time.Now(), database)
	n.id.Store(id)
	n.confirmed.Store(&sent)
	return nil
}

// keepLoop sends heartbeats and takes over from nodes that send none.
func (n *nodes) keepLoop() {
	defer n.s.working.Done()
	for {
		wait := n.s.opts.Lease / beatsPerLease
		if n.s.health.down.Load() != nil {
			wait = min(wait, probeInterval)
		}
		t := time.NewTimer(wait)
		select {
		case <-n.s.stop:
			t.Stop()
			return
		case <-n.s.health.trouble:
		case <-t.C:
		}
		t.Stop()
		end := n.s.health.begin()
		gone, err := n.beat()
		if err != nil {
			_ = n.s.failed(err)
			end()
			// The failure itself has signaled trouble to this loop.
			select {
			case <-n.s.health.trouble:
			default:
			}
			continue
		}
		n.s.recovered()
		end()
		if err := n.sweep(gone); err != nil {
			n.s.opts.Logger().Warn("taking over from nodes that are gone", zap.String("store", n.s.name), zap.Error(err))
		}
	}
}

// beat sends a heartbeat and returns the nodes that are gone.
func (n *nodes) beat() (gone []int64, err error) {
	sent := time.Now()
	counts := make(map[int64]int64)
	var removed bool
	var database time.Time
	err = n.beatWith(func(ctx context.Context, conn *pgx.Conn) error {
		clear(counts)
		sent = time.Now()
		b := newBatch()
		b.Queue("UPDATE webhook_nodes SET beat = beat + 1 WHERE id = $1", n.id.Load())
		b.Queue("SELECT id, beat FROM webhook_nodes")
		b.Queue(readClock)
		res, err := send(ctx, conn, b)
		if err != nil {
			return err
		}
		tag, err := res.Exec()
		if err != nil {
			return errors.Join(err, res.Close())
		}
		removed = tag.RowsAffected() == 0
		rows, err := res.Query()
		if err == nil {
			var id, beat int64
			_, err = pgx.ForEachRow(rows, []any{&id, &beat}, func() error { counts[id] = beat; return nil })
		}
		if err == nil {
			err = res.QueryRow().Scan(&database)
		}
		return errors.Join(err, res.Close())
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		// The time in which the table could not be read does not count.
		clear(n.seen)
		return nil, err
	}
	if removed {
		return nil, n.reregister()
	}
	n.confirmed.Store(&sent)
	n.s.checkClock(sent, time.Now(), database)
	return n.look(counts, sent, time.Now()), nil
}

// look compares counts, which were read between the two times, with those seen
// before, and returns the nodes that are gone. If this node was suspended in between,
// that is not held against the others.
func (n *nodes) look(counts map[int64]int64, sent, now time.Time) (gone []int64) {
	seen := make(map[int64]sighting, len(counts))
	for id, beat := range counts {
		last, ok := n.seen[id]
		if !ok || last.beat != beat {
			last = sighting{beat, now}
		}
		seen[id] = last
		if id != n.id.Load() && sent.Sub(last.at) >= n.lease {
			gone = append(gone, id)
		}
	}
	n.seen = seen
	return gone
}

// reregister registers the node again after others took it for gone. What it held now
// belongs to them.
func (n *nodes) reregister() error {
	n.s.opts.Logger().Warn("other nodes took this one for gone: it registers again", zap.String("store", n.s.name))
	if err := n.beatWith(n.register); err != nil {
		return err
	}
	n.s.queue.clear()
	n.s.polls.Clear()
	return nil
}

// sweep deletes the nodes that are gone and takes over what they held.
func (n *nodes) sweep(gone []int64) error {
	err := n.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		if len(gone) > 0 {
			n.s.opts.Logger().Warn("nodes are gone: taking over what they held", zap.String("store", n.s.name), zap.Int64s("nodes", gone))
			if _, err := conn.Exec(ctx, "DELETE FROM webhook_nodes WHERE id = ANY($1)", gone); err != nil {
				return err
			}
		}
		return n.s.sweepClaims(ctx, conn)
	})
	if err != nil {
		return err
	}
	if err := n.takeOver(); err != nil {
		return err
	}
	// This finds what lost notifications told.
	n.s.queue.requestRescan()
	return nil
}

// leave gives back what this node holds. If it can't, it logs that: the others then
// take over once they find that the node is gone.
func (n *nodes) leave() error {
	err := n.s.available()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		id := n.id.Load()
		err = n.s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			b := newBatch()
			b.Queue("DELETE FROM webhook_nodes WHERE id = $1", id)
			b.Queue("DELETE FROM webhook_claims WHERE key IN (SELECT key FROM webhook_claims WHERE owner = $1 ORDER BY key FOR UPDATE)", id)
			b.Queue("SELECT pg_notify($1, 'n')", n.s.channel)
			return conn.SendBatch(ctx, b).Close()
		})
	}
	if err != nil {
		n.s.opts.Logger().Warn("could not give back what this node held: other nodes take over once they find that it is gone",
			zap.String("store", n.s.name), zap.Duration("within", n.lease*3/2), zap.Error(err))
	}
	return nil
}
