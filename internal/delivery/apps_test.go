package delivery

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// TestConcurrencyHoldsOverAReload: engines of a process that share an Apps have no
// more events with an app than its inbox admits, and the new one goes on as attempts
// of the old one end.
func TestConcurrencyHoldsOverAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var apps Apps
		var mu sync.Mutex
		with, most := 0, 0
		slow := app(func(context.Context, *store.Delivery, int) AppResponse {
			mu.Lock()
			with++
			most = max(most, with)
			mu.Unlock()
			time.Sleep(10 * time.Second)
			mu.Lock()
			with--
			mu.Unlock()
			return AppResponse{Status: 200}
		})
		start := func() *Engine {
			return engine(t, s, noNetwork, inbox(slow, func(i *Inbox) { i.Concurrency = 2 }), func(c *Config) { c.Apps = &apps })
		}
		e := start()
		began := time.Now()
		for n := range int64(20) {
			s.accept(n+1, "default")
		}
		for i := range 3 {
			time.Sleep(time.Duration(3+i) * time.Second)
			next := start()
			time.Sleep(time.Second) // both run
			e.Stop()
			e = next
		}
		for len(s.outcomes(t)) < 20 {
			if time.Since(began) > 110*time.Second {
				t.Fatalf("%d of 20 events were accepted after %v", len(s.outcomes(t)), time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if most != 2 {
			t.Errorf("%d events were with the app at once", most)
		}
		if n := apps.count("default"); n != 0 {
			t.Errorf("%d events are still counted", n)
		}
	})
}

// TestCutOffAttemptsAreNotCounted once their engine has ended.
func TestCutOffAttemptsAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var apps Apps
		conf := Config{Store: s, Secrets: secrets(t, testSecret), Guard: guard(t, nil), Apps: &apps}
		inbox(func(ctx context.Context, _ *store.Delivery, _ int) AppResponse {
			<-ctx.Done()
			return AppResponse{Err: ctx.Err()}
		})(&conf)
		e, err := New(conf)
		if err != nil {
			t.Fatal(err)
		}
		e.Start()
		s.accept(1, "default")
		synctest.Wait()
		if n := apps.count("default"); n != 1 {
			t.Errorf("%d events are counted", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Wait(ctx); err == nil {
			t.Error("the attempt was not cut off")
		}
		<-e.Done()
		if n := apps.count("default"); n != 0 {
			t.Errorf("%d events are counted at the end", n)
		}
	})
}
