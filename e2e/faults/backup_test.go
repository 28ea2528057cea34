package faults_test

import (
	"os"
	"testing"
)

// TestBackupUnderLoad backs the store of a running Caddy up from another process,
// and restores it: all that was accepted before the backup began is remembered.
func TestBackupUnderLoad(t *testing.T) {
	w := newWorld(t, "sqlite {$DIR}/store/webhook.db")
	w.Start("PORT1")
	w.warmUp()
	stop := make(chan struct{})
	wg := w.load(stop, 4, 2, 0)
	w.settle()
	before := w.ledger.selected(func(e *webhook) bool { return e.accepted && e.path == "/webhooks/replicate" })
	backup := w.Path("backup.db")
	out, err := w.Command("replicate-webhook", "backup", "--from", w.Path("store/webhook.db"), backup).CombinedOutput()
	if err != nil {
		t.Errorf("backing up: %v %s", err, out)
	}
	close(stop)
	wg.Wait()
	w.kill()
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the backup has mode %v: %v", info.Mode(), err)
	}
	for _, name := range []string{"store/webhook.db", "store/webhook.db-wal", "store/webhook.db-shm"} {
		if err := os.Remove(w.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(backup, w.Path("store/webhook.db")); err != nil {
		t.Fatal(err)
	}
	w.Start("PORT1")
	together(before, func(e *webhook) {
		if a := w.post(e); !a.duplicate {
			w.ledger.fault("event %s was accepted before the backup and got %v after it was restored", e.id, a)
		}
	})
	for _, f := range w.ledger.faults {
		t.Error(f)
	}
}
