package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// commitInitial and commitMax bound the waits between tries to commit.
	commitInitial = 100 * time.Millisecond
	commitMax     = 10 * time.Second
	// commitTries is how often an outcome is tried on a store that is
	// available. If it still fails, the fault is in the outcome.
	commitTries = 10
)

// errClaimLost says that another process may hold the claim by now.
var errClaimLost = errors.New("the claim on the delivery was lost, and nothing was sent")

// committer ends claims: it hands outcomes to the store, and claims back, until
// the store has them.
type committer struct {
	conf *Config
	life context.Context // ends with the engine
	exit <-chan struct{} // closed when nothing is tried again
}

// commit hands an outcome to the store until it is durable, without another
// attempt. It waits for a store that is unavailable: the number of outcomes that
// wait is bounded, and while they do nothing is claimed. It reports whether the
// outcome is committed.
func (c *committer) commit(o *store.Outcome) bool {
	err := c.conf.Store.Complete(c.life, *o)
	if err == nil {
		return true
	}
	log := c.conf.Logger.With(zap.String("delivery", o.Delivery.ID), zap.Int("attempt", o.Attempt.Number))
	log.Error("outcome of a delivery attempt is not committed yet", zap.Error(err))
	tries := 1
	for wait := commitBackoff(); ; {
		if errors.Is(err, store.ErrUnavailable) {
			tries = 1
		} else if tries++; tries > commitTries {
			log.Error("outcome of a delivery attempt is lost, the attempt will be repeated", zap.Error(err))
			c.postpone(o, log)
			return false
		}
		if !c.wait(wait.NextBackOff()) {
			log.Error("outcome of a delivery attempt is lost by the exit, the attempt will be repeated", zap.Error(err))
			return false
		}
		if err = c.conf.Store.Complete(c.life, *o); err == nil {
			log.Info("outcome of a delivery attempt is committed")
			return true
		}
	}
}

// postpone releases the claim of a delivery whose outcome was not committed. The
// delivery is due after the longest delay, which is long enough to be sure that
// the outcome was not committed after all.
func (c *committer) postpone(o *store.Outcome, log *zap.Logger) {
	due := c.conf.Now().Add(time.Duration(c.conf.Retry.MaxDelay))
	if err := c.conf.Store.Postpone(c.life, o.Delivery, due); err != nil {
		log.Error("claim of a delivery could not be released", zap.Error(err))
	}
}

// releaseClaim releases the claim of a delivery of which no attempt was made.
// apart moves it to the lane of its URL. Otherwise it is due at the given time.
// releaseClaim tries until the store has released the claim.
func (c *committer) releaseClaim(d store.Delivery, apart bool, due time.Time) {
	wait := commitBackoff()
	for tries := 1; ; tries++ {
		var err error
		if apart {
			err = c.conf.Store.SetApart(c.life, d)
		} else {
			err = c.conf.Store.Postpone(c.life, d, due)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrUnavailable) && tries > commitTries {
			c.conf.Logger.Error("claim of a delivery could not be released", zap.String("delivery", d.ID), zap.Error(err))
			return
		}
		if !c.wait(wait.NextBackOff()) {
			return
		}
	}
}

// wait waits before the next try. It reports false when there is none.
func (c *committer) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.exit:
		return false
	}
}

func commitBackoff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(commitInitial),
		backoff.WithMaxInterval(commitMax), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}
