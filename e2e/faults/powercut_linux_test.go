package faults_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// slowSyncs makes an fsync so slow that the power is gone before the end of one
// that an acknowledgement did not wait for.
const slowSyncs = "fsync,fdatasync:delay_enter=50000" // microseconds

// TestPowerCut takes the power away right after an acknowledgement, with 1, 10
// and 100 writers, and looks for what was acknowledged. What one writer commits
// is alone in its transaction; it has a disk that is slow.
func TestPowerCut(t *testing.T) {
	for i, writers := range []int{1, 10, 100} {
		t.Run(fmt.Sprint(writers, " writers"), func(t *testing.T) {
			d := newDisk(t)
			d.forgets()
			w := newWorld(t, "sqlite "+d.path("store", "webhook.db")).withKeyFile()
			w.surviveCuts(d, (count(cuts, 5)+2-i)/3, writers, func(restore func()) { restore() })
		})
	}
}

// surviveCuts cuts the power time and again. again is what a start after it
// takes besides the file system and Caddy.
func (w *world) surviveCuts(d *disk, rounds, writers int, again func(restore func())) {
	w.t.Cleanup(w.Kill) // before the disk is unmounted
	for round := range rounds {
		w.Start("PORT1")
		if w.lease == 0 {
			w.check()
		} else {
			w.keeps()
			w.remembers()
		}
		w.cutUnderLoad(d, round, writers)
		again(d.restore)
	}
	w.endure("cuts")
}

// cutUnderLoad cuts the power the moment that the chosen acknowledgement is
// there. In a new file's first round that is the first one ever. With one writer
// it is in turn one of a create and one of an event.
func (w *world) cutUnderLoad(d *disk, round, writers int) {
	w.t.Helper()
	target := 1
	if round > 0 || w.lease > 0 {
		target = rand.IntN(20*writers) + 1
	}
	senders, creators, both := writers*3/4, writers-writers*3/4, 0
	last := anything
	if writers == 1 {
		senders, creators, both = 0, 0, 1
		last = []string{aCreate, anEvent}[round%2]
	}
	if writers == 1 {
		defer w.inject(slowSyncs).stop()
	}
	stop, reached := make(chan struct{}), make(chan struct{})
	cutAt := func() { w.ledger.update(func() { w.ledger.onAnswer(target, last, func() { close(reached) }) }) }
	var wg *sync.WaitGroup
	if round%2 == 1 {
		wg = w.load(stop, senders, creators, both)
		w.settle()
		cutAt()
	} else {
		cutAt()
		wg = w.load(stop, senders, creators, both)
	}
	wg.Go(func() { w.operate(stop) })
	select {
	case <-reached:
	case <-time.After(8 * caddyrun.Patience):
		w.t.Fatal("there was no load")
	}
	w.ledger.update(func() { w.ledger.dead = true })
	if err := d.cut(); err != nil {
		w.t.Fatal(err)
	}
	w.kill()
	close(stop)
	wg.Wait() // also for answers that came before the kill
	w.ledger.update(func() { w.ledger.dead = false })
}

// forgets makes sure that a cut loses what is not fsynced: otherwise these
// tests would prove nothing.
func (d *disk) forgets() {
	d.t.Helper()
	write := func(name string, sync bool) {
		f, err := os.Create(d.path(name))
		if err == nil {
			_, err = f.WriteString("content")
		}
		if err == nil && sync {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			d.t.Fatal(err)
		}
	}
	write("synced", true)
	write("not synced", false)
	if err := d.cut(); err != nil {
		d.t.Fatal(err)
	}
	d.restore()
	if text, err := os.ReadFile(d.path("synced")); string(text) != "content" {
		d.t.Fatalf("a file that was fsynced is %q, %v after the cut", text, err)
	}
	if text, err := os.ReadFile(d.path("not synced")); !errors.Is(err, fs.ErrNotExist) && len(text) > 0 {
		d.t.Fatalf("a file that was not fsynced is %q after the cut", text)
	}
}
