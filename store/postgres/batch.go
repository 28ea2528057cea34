package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// maxGroup bounds one transaction.
	maxGroup = 1024
	// groupTimeout is how long a database may take for a transaction before
	// it counts as down.
	groupTimeout = 10 * time.Second
	// raceTries is how often a group that lost a race is tried again.
	raceTries = 5
)

// batcher runs what is waiting as one group, while what comes meanwhile waits
// for the next.
type batcher[J any] struct {
	jobs    chan J
	run     func([]J)
	closed  chan struct{}
	stopped chan struct{}
}

func newBatcher[J any](run func([]J)) *batcher[J] {
	b := &batcher[J]{
		jobs: make(chan J, maxGroup), run: run,
		closed: make(chan struct{}), stopped: make(chan struct{}),
	}
	go b.loop()
	return b
}

// add hands a job in. The job learns its outcome by itself, unless the batcher
// stops first.
func (b *batcher[J]) add(ctx context.Context, j J) error {
	select {
	case <-b.closed:
		return errClosed
	default:
	}
	select {
	case b.jobs <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return errClosed
	}
}

// wait waits for the outcome of a job that was handed in.
func (b *batcher[J]) wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stopped:
		// It may have been among the last.
		select {
		case err := <-done:
			return err
		default:
			return errClosed
		}
	}
}

func (b *batcher[J]) loop() {
	defer close(b.stopped)
	for {
		select {
		case j := <-b.jobs:
			b.run(b.gather(j))
		case <-b.closed:
			for {
				select {
				case j := <-b.jobs:
					b.run(b.gather(j))
				default:
					return
				}
			}
		}
	}
}

// gather takes along what else is waiting.
func (b *batcher[J]) gather(first J) []J {
	jobs := []J{first}
	for len(jobs) < maxGroup {
		select {
		case j := <-b.jobs:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

// close runs what was handed in.
func (b *batcher[J]) close() {
	close(b.closed)
	<-b.stopped
}

// transact runs a group's transaction and tells every job how it went. One job
// that can't be committed fails alone. While the database is away the group is
// tried again for as long as wait says.
func transact[J any](s *Store, jobs []J, wait time.Duration, work func(context.Context, *pgx.Conn, []J) error, finish func(J, error)) {
	run := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
		defer cancel()
		return s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error { return work(ctx, conn, jobs) })
	}
	began := time.Now()
	err := run()
	for try := 1; err != nil && try < raceTries && faultOf(err) == faultRace; try++ {
		err = run()
	}
	for err != nil && faultOf(err) == faultStore {
		failure := s.failed(err)
		if s.await(context.Background(), wait-time.Since(began)) != nil || time.Since(began) > wait {
			err = failure
			break
		}
		err = run()
	}
	switch {
	case err == nil, errors.Is(err, store.ErrUnavailable):
	case len(jobs) > 1:
		for _, j := range jobs {
			transact(s, []J{j}, wait, work, finish)
		}
		return
	default:
		err = fmt.Errorf("%w: committing to %s: %w", store.ErrUnavailable, s.name, err)
	}
	for _, j := range jobs {
		finish(j, err)
	}
}
