package delivery

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// errClaimLost says that a claim may be another process's by now.
var errClaimLost = errors.New("the claim on the delivery was lost, and nothing was sent")

// release gives back the claim of a flight whose attempt was not made, due at
// the given time, or when it was if the delivery is set apart.
func (e *Engine) release(f *flight, due time.Time) {
	d := f.delivery
	log := e.conf.Logger.With(zap.String("delivery", d.ID))
	e.untilTaken(log, func() error {
		if f.apart {
			return e.conf.Store.SetApart(e.life, d)
		}
		return e.conf.Store.Postpone(e.life, d, due)
	})
	e.forget(f)
}

// untilTaken tries to give a claim back until the store takes it, which is
// unavailable at times.
func (e *Engine) untilTaken(log *zap.Logger, give func() error) {
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(commitInitial),
		backoff.WithMaxInterval(commitMax), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
	for tries := 1; ; tries++ {
		err := give()
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrUnavailable) && tries > commitTries {
			log.Error("claim of a delivery could not be given back", zap.Error(err))
			return
		}
		timer := time.NewTimer(wait.NextBackOff())
		select {
		case <-timer.C:
		case <-e.exit:
			timer.Stop()
			return
		}
	}
}
