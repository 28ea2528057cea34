package faults_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// TestKill kills Caddy at random moments of its life, while it starts, under
// load and during reloads, and holds what it promised against what is there
// afterwards.
func TestKill(t *testing.T) {
	newWorld(t, "sqlite {$DIR}/store/webhook.db").withKeyFile().surviveKills(count(kills, 20))
}

// surviveKills kills Caddy so many times, also in the middle of recovering from
// the last crash.
func (w *world) surviveKills(kills int) {
	for round := 0; w.ledger.crashes < kills; round++ {
		if round%5 == 4 && w.ledger.crashes+1 < kills {
			w.Launch()
			pause(200 * time.Millisecond)
			w.kill()
		}
		w.Start("PORT1")
		if w.lease == 0 {
			w.check()
		} else {
			w.keeps()
			w.remembers() // the rest once, since it takes a lease
		}
		stop := make(chan struct{})
		wg := w.load(stop, 8, 3, 0)
		wg.Go(func() { w.operate(stop) })
		pause(400 * time.Millisecond)
		if round%2 == 0 {
			w.settle() // other rounds leave nothing but chance
		}
		reloaded := make(chan struct{})
		go func() {
			defer close(reloaded)
			if round%3 == 1 {
				_ = w.reload() // the kill may come in between
			}
		}()
		pause(200 * time.Millisecond)
		w.kill()
		close(stop)
		wg.Wait()
		<-reloaded
	}
	if w.ledger.crashes != kills {
		w.t.Errorf("there were %d kills, want %d", w.ledger.crashes, kills)
	}
	w.endure("kills")
}

// endure starts Caddy a last time and holds it to all it has promised.
func (w *world) endure(what string) {
	w.t.Helper()
	w.Start("PORT1")
	w.check()
	w.resume()
	w.drain()
	w.settle()
	w.t.Logf("%d %s: %v", w.ledger.crashes, what, w.ledger.audit(w.t))
}

// pause lets up to d pass: that moments are random is the point.
func pause(d time.Duration) { time.Sleep(rand.N(d)) }

// reload gives Caddy its configuration once more.
func (w *world) reload() error {
	r, err := http.NewRequest(http.MethodPost, w.URL("PORT_ADMIN", "/load"), bytes.NewReader([]byte(w.Expand(w.text))))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate") // also when nothing has changed
	resp, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reloading: status %d", resp.StatusCode)
	}
	return nil
}
