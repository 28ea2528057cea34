package faults_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestLostFiles takes the store's files from a running Caddy. From then on nobody
// is told that something was kept, and the status says why. What was accepted
// before is there when the files are back, or where the database itself stayed.
func TestLostFiles(t *testing.T) {
	move := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for _, c := range []struct {
		name, status string
		lose         func(dir string) error
		back         func(dir string) error // while Caddy runs
		// refusal is what the start after it says, if it is refused.
		refusal string
	}{
		{name: "moved and back", status: "webhook.db was deleted or moved", lose: move("store/webhook.db", "moved.db"), back: move("moved.db", "store/webhook.db")},
		{name: "directory moved and back", status: "webhook.db was deleted or moved", lose: move("store", "moved"), back: move("moved", "store")},
		{name: "log deleted", status: "webhook.db-wal was deleted or moved", lose: remove("store/webhook.db-wal")},
		{name: "index deleted", status: "webhook.db-shm was deleted or moved", lose: remove("store/webhook.db-shm")},
		{name: "replaced by its copy", status: "webhook.db was replaced", lose: func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, "store/webhook.db"))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, "copy"), b, 0o600), move("copy", "store/webhook.db")(dir))
		}, refusal: "none"},
		{name: "deleted", status: "webhook.db was deleted or moved", lose: remove("store/webhook.db"), refusal: "is missing but its log webhook.db-wal exists"},
		{name: "replaced by an empty file", status: "webhook.db was replaced", lose: func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600), move("empty", "store/webhook.db")(dir))
		}, refusal: "is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "sqlite {$DIR}/store/webhook.db")
			dir := w.Path("")
			w.Start("PORT1")
			w.warmUp()
			w.drain()
			w.settle()
			if err := c.lose(dir); err != nil {
				t.Fatal(err)
			}
			w.ailing(true)
			ready, why := w.storeStatus()
			if ready || !strings.Contains(why, c.status) {
				t.Errorf("the status is ready=%v, %q, want %q", ready, why, c.status)
			}
			switch {
			case c.back != nil:
				if err := c.back(dir); err != nil {
					t.Fatal(err)
				}
				w.recovers()
				w.outlive(func() {})
			case c.refusal == "":
				// The app's 2xx to what is refused here ends with the process.
				for _, e := range w.ledger.selected(func(e *webhook) bool { return !e.accepted }) {
					w.ledger.update(func() { e.unanswered++ })
				}
				w.outlive(func() {})
			case c.refusal != "none": // what a copy that is not made by SQLite has is chance
				w.kill()
				w.Launch()
				select {
				case <-w.Exited():
				case <-time.After(2 * caddyrun.Patience):
				}
				if !strings.Contains(w.Logs.String(), c.refusal) {
					t.Errorf("the start did not say %q", c.refusal)
				}
			}
		})
	}
}

// storeStatus asks Caddy how its store is.
func (w *world) storeStatus() (ready bool, why string) {
	w.t.Helper()
	resp, err := w.client.Get(w.URL("PORT_ADMIN", "/replicate_webhook/status"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var status struct {
		Store struct {
			Ready bool
			Error string
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("asking for the status: %d, %v", resp.StatusCode, err)
	}
	return status.Store.Ready, status.Store.Error
}
