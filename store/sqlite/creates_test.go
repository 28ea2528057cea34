package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

func TestCreatesConformance(t *testing.T) {
	storetest.RunCreates(t, func(t *testing.T) storetest.Resource {
		path := filepath.Join(t.TempDir(), "webhook.db")
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{Path: path, Now: now, MaxCreates: storetest.MaxCreates})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
