package sqlite

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// benchEntry is the entry of the nth event.
func benchEntry(n int64) store.Entry {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return store.Entry{
		Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", string(b[:]))},
		SignedAt: time.Now(), Expires: time.Now().Add(24 * time.Hour),
	}
}

// commitRange commits the entries from lo to hi with the given number of
// writers at once.
func commitRange(tb testing.TB, s *Store, writers int, lo, hi int64) {
	var next atomic.Int64
	next.Store(lo)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < hi; n = next.Add(1) - 1 {
				c, err := s.Claim(context.Background(), benchEntry(n), 0)
				if err == nil {
					err = c.Commit(context.Background())
				}
				if err != nil {
					tb.Errorf("entry %d: %v", n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := Open(Options{Path: filepath.Join(b.TempDir(), "webhook.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ResetTimer()
			commitRange(b, s, writers, 0, int64(b.N))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkOpen measures opening a store of a million live entries, committed
// one to a row (an idle edge) and in groups (a busy one).
func BenchmarkOpen(b *testing.B) {
	const entries = 1_000_000
	for _, group := range []int{1, 64} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "webhook.db")
			s, err := Open(Options{Path: path})
			if err != nil {
				b.Fatal(err)
			}
			fill(b, s, entries, group)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				s, err := Open(Options{Path: path})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if got := s.entries.count(); got != entries {
					b.Fatalf("%d entries, want %d", got, entries)
				}
				_ = s.Close()
				b.StartTimer()
			}
		})
	}
}

// fill writes entries by rows of the given size, all rows in few transactions.
func fill(b *testing.B, s *Store, entries, size int) {
	for n := 0; n < entries; {
		err := s.writer.do(context.Background(), &op{write: func(tx *group) error {
			for range 50_000 / size {
				for range min(size, entries-n) {
					e := benchEntry(int64(n))
					tx.add(&e)
					n++
				}
				if err := tx.flush(); err != nil {
					return err
				}
				tx.entries = nil
			}
			return nil
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
}
