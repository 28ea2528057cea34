package faults_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// ailing posts new events and creates while the disk is ill, until enough of
// them are refused. Nobody may be told that something was kept which was not.
// With strict, nothing can be kept at all.
func (w *world) ailing(strict bool) {
	w.t.Helper()
	refused := 0
	for i := 0; refused < 20; i++ {
		if i == 20_000 {
			w.t.Fatal("the disk is ill, and everything is still accepted")
		}
		a, wanted := w.post(w.newEvent("/webhooks/replicate")), 200
		if i%5 == 4 {
			a, wanted = w.create(), 201
			if a.duplicate {
				continue // the client knows that its webhook failed
			}
		}
		switch {
		case a.status == 503 && a.header.Get("Retry-After") != "":
			refused++
		case a.status == wanted && !strict:
		default:
			w.t.Fatalf("request %d got %v with Retry-After %q while nothing can be written", i, a, a.header.Get("Retry-After"))
		}
	}
}

// recovers waits until the Caddy that saw the trouble takes events again,
// without a restart. What it refused is accepted with a retry, and the app is
// not given again what it took.
func (w *world) recovers() {
	w.t.Helper()
	deadline := time.Now().Add(caddyrun.Patience)
	for {
		a := w.post(w.newEvent("/webhooks/replicate"))
		if a.status == 200 {
			break
		}
		if a.status != 503 || time.Now().After(deadline) {
			w.t.Fatalf("the disk is well again, and an event got %v", a)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if a := w.create(); a.status != 201 || a.duplicate {
		w.t.Fatalf("the disk is well again, and a create got %v", a)
	}
	together(w.ledger.selected(func(e *webhook) bool { return !e.accepted }), func(e *webhook) {
		if a := w.post(e); a.status != 200 {
			w.ledger.fault("the retry of event %s got %v", e.id, a)
		}
	})
}

// warmUp has some events and creates accepted.
func (w *world) warmUp() {
	w.t.Helper()
	for range 20 {
		if a := w.post(w.newEvent("/webhooks/replicate")); a.status != 200 {
			w.t.Fatalf("an event got %v", a)
		}
		if a := w.create(); a.status != 201 || a.duplicate {
			w.t.Fatalf("a create got %v", a)
		}
	}
}

// outlive kills Caddy, starts it again and holds it to what it promised.
func (w *world) outlive(between func()) {
	w.t.Helper()
	w.kill()
	between()
	w.Start("PORT1")
	w.check()
	w.drain()
	w.t.Log(w.ledger.audit(w.t))
}

// TestDiskFull fills the disk under a running Caddy and empties it again.
func TestDiskFull(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "mount", "apt-get install mount")
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir).CombinedOutput(); err != nil {
		testenv.Skip(t, "the right to mount file systems", fmt.Sprintf("run it on a host or in a privileged container (mount: %v %s)", err, bytes.TrimSpace(out)))
	}
	t.Cleanup(func() { run(t, "umount", dir) })
	w := newWorld(t, "sqlite "+filepath.Join(dir, "store", "webhook.db"))
	t.Cleanup(w.Kill) // before the unmount
	w.Start("PORT1")
	w.warmUp()
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(ballast, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	w.ailing(false)
	if err := errors.Join(ballast.Close(), os.Remove(ballast.Name())); err != nil {
		t.Fatal(err)
	}
	w.recovers()
	w.outlive(func() {})
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReadOnly makes the disk read-only under a running Caddy, as ext4 does by
// itself after an error. Such a file system takes no writes before it is
// unmounted, so Caddy has to be restarted.
func TestReadOnly(t *testing.T) {
	d := newDisk(t)
	w := newWorld(t, "sqlite "+d.path("store", "webhook.db"))
	t.Cleanup(w.Kill)
	w.Start("PORT1")
	w.warmUp()
	// Nothing is being committed: between the end of its journal and the moment at
	// which ext4 refuses to sync, a sync that succeeds may have kept nothing.
	w.drain()
	w.settle()
	run(t, "mount", "-o", "remount,abort", d.dir)
	w.ailing(true)
	// The app's 2xx to what is refused here ends with the process.
	for _, e := range w.ledger.selected(func(e *webhook) bool { return !e.accepted }) {
		w.ledger.update(func() { e.unanswered++ })
	}
	w.outlive(d.restore)
}

// TestFailingCalls makes the system calls by which the store writes fail.
func TestFailingCalls(t *testing.T) {
	for _, c := range []struct{ name, inject string }{
		{"fsync EIO", "fsync,fdatasync:error=EIO"},
		{"write EIO", "pwrite64:error=EIO"},
		{"write ENOSPC", "pwrite64:error=ENOSPC"},
		{"write EROFS", "pwrite64:error=EROFS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.NeedRoot(t)
			w := newWorld(t, "sqlite {$DIR}/store/webhook.db")
			w.Start("PORT1")
			w.warmUp()
			trace := w.inject(c.inject)
			w.ailing(true)
			trace.wait(4) // the store tries again by itself, too
			w.ailing(true)
			notRetriedInPlace(t, trace.stop())
			w.recovers()
			w.outlive(func() {})
		})
	}
}

// tracer makes system calls of the running Caddy fail.
type tracer struct {
	t   *testing.T
	cmd *exec.Cmd
	out string
}

func (w *world) inject(fault string) *tracer {
	w.t.Helper()
	testenv.Need(w.t, "strace", "apt-get install strace")
	tr := &tracer{t: w.t, out: filepath.Join(w.t.TempDir(), "calls")}
	tr.cmd = exec.Command("strace", "-f", "-y", "-o", tr.out,
		"-e", "trace=fsync,fdatasync,pwrite64,close", "-e", "inject="+fault, "-p", strconv.Itoa(w.PID()))
	stderr, err := tr.cmd.StderrPipe()
	if err == nil {
		err = tr.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "attached") {
		if strings.Contains(lines.Text(), "not permitted") {
			_ = tr.cmd.Wait()
			testenv.Skip(w.t, "the right to trace processes", "run it on a host or in a container with CAP_SYS_PTRACE (strace: "+lines.Text()+")")
		}
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	return tr
}

// calls are the calls so far.
func (tr *tracer) calls() string {
	tr.t.Helper()
	calls, err := os.ReadFile(tr.out)
	if err != nil {
		tr.t.Fatal(err)
	}
	return string(calls)
}

// wait waits until n calls were made to fail.
func (tr *tracer) wait(n int) {
	tr.t.Helper()
	deadline := time.Now().Add(2 * caddyrun.Patience)
	for strings.Count(tr.calls(), "INJECTED") < n {
		if time.Now().After(deadline) {
			tr.t.Fatalf("fewer than %d calls were made to fail:\n%s", n, tr.calls())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop lets calls succeed again, and gives those there were.
func (tr *tracer) stop() string {
	tr.t.Helper()
	if err := tr.cmd.Process.Signal(syscall.SIGINT); err != nil {
		tr.t.Fatal(err)
	}
	_ = tr.cmd.Wait()
	return tr.calls()
}

var tracedCall = regexp.MustCompile(`^(\d+) +(?:(fsync|fdatasync|pwrite64|close)\((\d+)<|<\.\.\. \w+ resumed>)`)

// notRetriedInPlace wants every file to be closed or written before it is fsynced
// again: where an fsync has failed the kernel may have dropped what it could not
// write, and call the next one a success. A call that another thread interrupts
// takes two lines, of which the second has its result.
func notRetriedInPlace(t *testing.T, calls string) {
	t.Helper()
	type call struct{ name, file string }
	begun := make(map[string]call)    // by thread
	failed := make(map[string]string) // the fsync, by file
	for line := range strings.Lines(calls) {
		m := tracedCall.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{m[2], m[3]}
		if c.name == "" {
			c = begun[m[1]]
		} else {
			begun[m[1]] = c
			switch {
			case c.name == "close":
				delete(failed, c.file)
			case strings.HasSuffix(c.name, "sync") && failed[c.file] != "":
				t.Errorf("fsync was tried again in place:\n%s%s", failed[c.file], line)
			}
		}
		switch ended := !strings.Contains(line, "<unfinished ...>"); {
		case !ended:
		case strings.HasSuffix(c.name, "sync") && strings.Contains(line, " = -1 "):
			failed[c.file] = line
		case c.name == "pwrite64" && !strings.Contains(line, " = -1 "):
			delete(failed, c.file)
		}
	}
}
