package delivery

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// rawReceiver answers each request with as little work as possible.
func rawReceiver(b *testing.B) (port int) {
	length := []byte("Content-Length: ")
	return receiver(b, func(c net.Conn) {
		br := bufio.NewReaderSize(c, 16<<10)
		for {
			n := 0
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					break
				}
				if v, ok := bytes.CutPrefix(line, length); ok {
					n, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
				}
			}
			br.Discard(n)
			if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")); err != nil {
				return
			}
		}
	})
}

// BenchmarkDrain empties a queue of deliveries to one local receiver.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct {
		concurrency int
		commit      time.Duration
	}{{16, 0}, {128, 0}, {128, 20 * time.Millisecond}} {
		b.Run(fmt.Sprintf("concurrency=%d/commit=%v", c.concurrency, c.commit), func(b *testing.B) {
			port := rawReceiver(b)
			url := fmt.Sprintf("http://127.0.0.1:%d/webhooks/replicate", port)
			var st Store
			s := newMemStore()
			s.keep = false
			st = s
			if c.commit > 0 {
				st = &grouped{memStore: s, every: c.commit}
			}
			var wg sync.WaitGroup
			wg.Add(b.N)
			s.ended = func(o *store.Outcome) {
				if o.Disposition != store.Delivered {
					b.Errorf("outcome %+v", o.Attempt)
				}
				wg.Done()
			}
			payload := bytes.Repeat([]byte("x"), 1500)
			for i := range b.N {
				s.addAt(time.Now(), store.Delivery{ID: "dlv_" + strconv.Itoa(i), URL: url, Event: event.Completed, CreatedAt: time.Now(), Payload: payload})
			}
			e, err := New(Config{
				Store: st, Secrets: secrets(b, testSecret), Guard: guard(b, nil, port),
				Options: Options{Endpoint: Endpoint{Concurrency: c.concurrency}},
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			e.Start()
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
			if err := e.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// grouped commits like a store that groups what is waiting into one slow
// transaction.
type grouped struct {
	*memStore
	every time.Duration
	mu    sync.Mutex
	tick  chan struct{}
}

func (g *grouped) Complete(ctx context.Context, o store.Outcome) error {
	g.mu.Lock()
	if g.tick == nil {
		tick := make(chan struct{})
		g.tick = tick
		time.AfterFunc(g.every, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.tick = nil
			close(tick)
		})
	}
	tick := g.tick
	g.mu.Unlock()
	<-tick
	return g.memStore.Complete(ctx, o)
}

// BenchmarkDelay steps the schedule to its last wait.
func BenchmarkDelay(b *testing.B) {
	r := Retry{InitialDelay: Duration(time.Second), MaxDelay: Duration(time.Minute), BackoffFactor: 2}
	b.ReportAllocs()
	for b.Loop() {
		r.delay(5)
	}
}
