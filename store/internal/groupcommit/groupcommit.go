// Package groupcommit commits what many callers hand in at the same time as one
// transaction, so that they share the cost of making it durable.
//
// While one group is committed, the jobs of the next one gather. A busy store
// commits fewer and larger groups if it also waits a little before it commits, as
// PostgreSQL does with commit_delay and commit_siblings; see [Options].
//
// https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-COMMIT-DELAY
package groupcommit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// MaxSize is the most jobs of a group. In a larger one, making it durable would no
// longer be what a commit costs.
const MaxSize = 1024

// ErrClosed is the error of jobs that are handed in after [Batcher.Close].
var ErrClosed = errors.New("closed")

// Options say how groups are committed.
type Options[J any] struct {
	// Commit makes a group of jobs durable. If its error is
	// [store.ErrUnavailable], all jobs fail with it. Any other error is the
	// fault of one job: each is then committed in a group of its own, so that
	// no other fails.
	Commit func(jobs []J) error
	// Finish is called with each job and the error of its group, before the
	// job's caller hears of it. It returns the error that the caller gets.
	// Optional.
	Finish func(j J, err error) error

	// Check is called between groups, every CheckInterval. Optional.
	Check         func()
	CheckInterval time.Duration

	// CommitDelay is the least time between the beginnings of two groups, for
	// each job of the first if that had more than one, and MaxCommitDelay the
	// most that this is. A store with few callers, which gains little from
	// larger groups, hardly waits. The delay ends early when as many jobs wait
	// as the first group had, and there are fewer than CommitSiblings siblings.
	// Default: no delay.
	CommitDelay, MaxCommitDelay time.Duration
	CommitSiblings              int64
	// Siblings returns the number of jobs that are known to be likely to come.
	// It is called from several goroutines. Required with CommitDelay.
	Siblings func() int64
}

// Batcher runs jobs in groups, one group at a time.
type Batcher[J any] struct {
	opts     Options[J]
	queue    chan pending[J]
	closed   chan struct{}
	stopped  chan struct{}
	delaying atomic.Bool
	wake     chan struct{} // ends a delay
	last     atomic.Int64  // size of the last group
}

// pending is a job that was handed in. done is nil if nobody waits for it.
type pending[J any] struct {
	job  J
	done chan error
}

// New returns a batcher, which must be closed.
func New[J any](opts Options[J]) *Batcher[J] {
	b := &Batcher[J]{
		opts: opts, queue: make(chan pending[J], MaxSize), wake: make(chan struct{}, 1),
		closed: make(chan struct{}), stopped: make(chan struct{}),
	}
	go b.loop()
	return b
}

// Do hands a job in and waits until it is committed. If ctx ends first, the job
// may still be committed, and Finish is called.
func (b *Batcher[J]) Do(ctx context.Context, j J) error {
	done, err := b.Add(ctx, j)
	if err != nil {
		return err
	}
	return b.Wait(ctx, done)
}

// Add hands a job in. Its outcome is for [Batcher.Wait]. If there is an error, the
// job was not handed in and Finish is not called.
func (b *Batcher[J]) Add(ctx context.Context, j J) (done <-chan error, err error) {
	select {
	case <-b.closed:
		return nil, ErrClosed
	default:
	}
	p := pending[J]{j, make(chan error, 1)}
	select {
	case b.queue <- p:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.closed:
		return nil, ErrClosed
	}
	if b.delaying.Load() && b.shouldFlush() {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return p.done, nil
}

// TryAdd hands a job in whose outcome only Finish hears of. It does not block, and
// reports whether there was room for the job.
func (b *Batcher[J]) TryAdd(j J) bool {
	select {
	case b.queue <- pending[J]{job: j}:
		return true
	default:
		return false
	}
}

// Wait waits for the outcome of a job that was added.
func (b *Batcher[J]) Wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stopped:
		// The job may have been in the last group.
		select {
		case err := <-done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Len returns the number of jobs that wait for the next group.
func (b *Batcher[J]) Len() int { return len(b.queue) }

// Close commits what was handed in and stops the batcher. It must be called once.
func (b *Batcher[J]) Close() {
	close(b.closed)
	<-b.stopped
}

func (b *Batcher[J]) loop() {
	defer close(b.stopped)
	var check <-chan time.Time
	if b.opts.Check != nil {
		t := time.NewTicker(b.opts.CheckInterval)
		defer t.Stop()
		check = t.C
	}
	for {
		select {
		case p := <-b.queue:
			began := time.Now()
			group := b.gather(p)
			b.commit(group)
			b.delayCommit(began, len(group))
		case <-check:
			b.opts.Check()
		case <-b.closed:
			for {
				select {
				case p := <-b.queue:
					b.commit(b.gather(p))
				default:
					return
				}
			}
		}
	}
}

// gather returns the group that begins with the given job.
func (b *Batcher[J]) gather(first pending[J]) []pending[J] {
	group := []pending[J]{first}
	for len(group) < MaxSize {
		select {
		case p := <-b.queue:
			group = append(group, p)
		default:
			return group
		}
	}
	return group
}

// commit commits a group and tells each caller its outcome.
func (b *Batcher[J]) commit(group []pending[J]) {
	jobs := make([]J, len(group))
	for i, p := range group {
		jobs[i] = p.job
	}
	err := b.opts.Commit(jobs)
	if err != nil && len(group) > 1 && !errors.Is(err, store.ErrUnavailable) {
		for i := range group {
			b.commit(group[i : i+1])
		}
		return
	}
	for _, p := range group {
		told := err
		if b.opts.Finish != nil {
			told = b.opts.Finish(p.job, err)
		}
		if p.done != nil {
			p.done <- told
		}
	}
}

// delayCommit waits until the next group, after one of n jobs that began at the given
// time, should begin, or until the batcher is closed.
func (b *Batcher[J]) delayCommit(began time.Time, n int) {
	b.last.Store(int64(n))
	delay := min(time.Duration(n)*b.opts.CommitDelay, b.opts.MaxCommitDelay) - time.Since(began)
	if n < 2 || delay <= 0 || b.shouldFlush() {
		return
	}
	select {
	case <-b.wake: // of an earlier delay
	default:
	}
	b.delaying.Store(true)
	defer b.delaying.Store(false)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for !b.shouldFlush() {
		select {
		case <-b.wake:
		case <-timer.C:
			return
		case <-b.closed:
			return
		}
	}
}

// shouldFlush reports whether the jobs that wait should wait no longer.
func (b *Batcher[J]) shouldFlush() bool {
	n := len(b.queue)
	return n >= MaxSize/4 || n >= int(b.last.Load()) && b.opts.Siblings() < b.opts.CommitSiblings
}
