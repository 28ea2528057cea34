package postgres

import (
	"errors"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// TestUndoneWithdrawalIsSignaled: a delivery that was withdrawn by a transaction
// that failed was out of sight of those who asked what is due next.
func TestUndoneWithdrawalIsSignaled(t *testing.T) {
	t.Parallel()
	s := node(t, pgtest.Start(t).Fresh(t))
	changed, stop := s.Changed()
	defer stop()
	p := track(t, s, "a", event.Started)
	bad := errors.New("bad")
	err := s.change(ctx, p.Ref, func(u *unit, e *tracked) error {
		e.Disable(&u.tx)
		if len(u.withdrawn) != 1 {
			t.Errorf("%d deliveries are withdrawn, want 1", len(u.withdrawn))
		}
		wantDue(t, s)
		select {
		case <-changed:
		default:
		}
		return bad
	})
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the delivery is there again")
	}
	wantDue(t, s, "a started")
}
