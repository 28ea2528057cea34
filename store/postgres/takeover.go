package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// orphanOwners selects the IDs in a column that belong to no node. It goes from ID
// to ID through the column's index.
const orphanOwners = `WITH RECURSIVE o AS (
	(SELECT %[2]s AS id FROM %[1]s WHERE %[3]s ORDER BY %[2]s LIMIT 1)
	UNION ALL
	SELECT (SELECT %[2]s FROM %[1]s WHERE %[3]s AND %[2]s > o.id ORDER BY %[2]s LIMIT 1) FROM o WHERE o.id IS NOT NULL
) SELECT id FROM o WHERE id IS NOT NULL AND id <> ALL(ARRAY(SELECT id FROM webhook_nodes))`

var (
	orphanDeliveries = fmt.Sprintf(orphanOwners, "webhook_deliveries", "owner", "owner <> 0")
	orphanPolls      = fmt.Sprintf(orphanOwners, "webhook_predictions", "poller", polled)
)

// polled is the condition of the index of predictions that are polled.
const polled = "happened < 2 AND poll_path <> ''"

// takeoverBatch is how many rows are taken over at a time, so that several
// nodes share the rows of one that is gone.
const takeoverBatch = 500

// takeOver frees the deliveries of nodes that are gone, and polls their predictions
// from then on.
func (n *nodes) takeOver() error {
	for more := true; more; {
		var err error
		if more, err = n.s.freeDeliveries(); err != nil {
			return err
		}
	}
	for more := true; more; {
		var err error
		if more, err = n.s.takePolls(); err != nil {
			return err
		}
	}
	return nil
}

// readOrphans selects what owners have claimed that are gone, and what this node
// has claimed with leases that may have been committed or not.
const readOrphans = `SELECT n, prediction, owner, lease FROM webhook_deliveries
	WHERE owner <> 0 AND owner = ANY($1::bigint[] || $2::bigint) AND (owner <> $2 OR lease = ANY($3)) LIMIT $4`

// takeOrphans makes a node poll predictions of nodes that are gone.
const takeOrphans = `UPDATE webhook_predictions SET poller = $1 WHERE ref = ANY(ARRAY(
	SELECT ref FROM webhook_predictions WHERE poller = ANY($2) AND ` + polled + ` LIMIT $3 FOR UPDATE SKIP LOCKED
)) RETURNING ref`

// orphan is a delivery whose claim nobody uses any more.
type orphan struct{ n, prediction, owner, lease int64 }

// freeDeliveries ends the claims of nodes that are gone, and those that this node
// made in a transaction whose outcome it does not know.
func (n *nodes) freeDeliveries() (more bool, err error) {
	lost := n.s.queue.takeLost()
	me := n.id.Load()
	var orphans []orphan
	err = n.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		owners, err := collect(ctx, conn, pgx.RowTo[int64], orphanDeliveries)
		if err != nil || len(owners) == 0 && len(lost) == 0 {
			return err
		}
		orphans, err = collect(ctx, conn, func(row pgx.CollectableRow) (o orphan, err error) {
			return o, row.Scan(&o.n, &o.prediction, &o.owner, &o.lease)
		}, readOrphans, append([]int64{}, owners...), me, append([]int64{}, lost...), takeoverBatch)
		return err
	})
	if err != nil {
		for _, lease := range lost {
			n.s.queue.lose(lease)
		}
		return false, err
	}
	orphans = slices.DeleteFunc(orphans, func(o orphan) bool { return o.owner == me && n.s.queue.knows(o.n, o.lease) })
	if len(orphans) == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	var jobs []<-chan error
	for _, o := range orphans {
		done, err := n.s.jobs.Add(ctx, n.s.releaseJob(o.prediction, o.n, o.owner, o.lease))
		if err != nil {
			return false, err
		}
		jobs = append(jobs, done)
	}
	freed := 0
	for _, done := range jobs {
		if n.s.jobs.Wait(ctx, done) == nil {
			freed++
		}
	}
	if len(orphans) == takeoverBatch {
		for _, lease := range lost {
			n.s.queue.lose(lease)
		}
	}
	return freed > 0 && len(orphans) == takeoverBatch, nil
}

// knows reports whether this node uses the claim on a delivery.
func (q *queue) knows(n, lease int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range []*leased{q.waiting[n], q.claimed[n]} {
		if i != nil && i.lease == lease {
			return true
		}
	}
	return false
}

// takePolls takes over the polls of nodes that are gone.
func (n *nodes) takePolls() (more bool, err error) {
	var refs []int64
	err = n.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		owners, err := collect(ctx, conn, pgx.RowTo[int64], orphanPolls)
		if err != nil || len(owners) == 0 {
			return err
		}
		refs, err = collect(ctx, conn, pgx.RowTo[int64], takeOrphans, n.id.Load(), owners, takeoverBatch)
		return err
	})
	for _, ref := range refs {
		n.s.polls.Add(ref)
	}
	if len(refs) > 0 {
		n.s.queue.look(never)
	}
	return len(refs) == takeoverBatch, err
}

// notifyInterval is the shortest time between two notifications.
const notifyInterval = 50 * time.Millisecond

// notifyPeers notifies other nodes that a delivery is due.
func (n *nodes) notifyPeers() { signal(n.s.notifying) }

// notifyLoop sends the notifications, one for many deliveries.
func (n *nodes) notifyLoop() {
	defer n.s.working.Done()
	for {
		select {
		case <-n.s.stop:
			return
		case <-n.s.notifying:
		}
		// After an error the others find out at their next scan.
		_ = n.s.notify(fmt.Sprintf("d%d", n.id.Load()))
		select {
		case <-n.s.stop:
			return
		case <-time.After(notifyInterval):
		}
	}
}
