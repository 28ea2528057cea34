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
	// groupTimeout is how long a transaction may take before the database
	// counts as unavailable.
	groupTimeout = 10 * time.Second
	// raceTries is how often a group that lost a race is tried again.
	raceTries = 5
)

// transact runs work in a transaction for a group of jobs. While the database is
// unavailable, it is tried again for as long as wait says. If the group has one
// job, all errors are [store.ErrUnavailable]; if it has several, any other error
// is the fault of one of them.
func transact[J any](s *Store, jobs []J, wait time.Duration, work func(context.Context, *pgx.Conn, []J) error) error {
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
	if err == nil || errors.Is(err, store.ErrUnavailable) || len(jobs) > 1 {
		return err
	}
	return fmt.Errorf("%w: committing to %s: %w", store.ErrUnavailable, s.name, err)
}
