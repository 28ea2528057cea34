package faults_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// ownMounts is set in a process that has its mounts to itself.
const ownMounts = "FAULTS_OWN_MOUNTS"

// TestMain gives root a mount namespace of its own. A namespace that is made
// elsewhere takes a copy of all mounts along, and a file system ends with its last
// mount alone: one that was shut down would still be there when it is mounted
// anew. It also leaves no mount behind, however the process ends.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(ownMounts) == "" {
		if err := unshareMounts(); err != nil {
			fmt.Fprintln(os.Stderr, "making a mount namespace:", err)
		}
	}
	os.Exit(m.Run())
}

// unshareMounts begins the program anew in a mount namespace. It returns only
// what went wrong.
func unshareMounts() error {
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), ownMounts+"=1"))
}

// disk is an ext4 file system in a file, mounted over a loop device.
type disk struct {
	t     *testing.T
	image string
	// dir is where it is mounted, device what is mounted there.
	dir, device string
	mounted     bool
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	testenv.NeedRoot(t)
	for _, tool := range []string{"mkfs.ext4", "losetup", "mount", "umount"} {
		testenv.Need(t, tool, "apt-get install e2fsprogs mount")
	}
	// Not t.TempDir, which the user that PostgreSQL runs as may not enter.
	dir, err := os.MkdirTemp("", "faults-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), dir: dir}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 128<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0", d.image)
	// One device for all mounts: one that was just given back may not be free
	// of what was cached of it.
	out, err := exec.Command("losetup", "--find", "--show", d.image).CombinedOutput()
	if err != nil {
		testenv.Skip(t, "a loop device", fmt.Sprintf("run it on a host or in a privileged container (losetup: %v %s)", err, bytes.TrimSpace(out)))
	}
	d.device = strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "--detach", d.device) })
	t.Cleanup(d.unmount)
	d.mount()
	return d
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v %s", name, args, err, out)
	}
}

// unmount leaves the file system. What uses it must have ended.
func (d *disk) unmount() {
	if d.mounted {
		run(d.t, "umount", d.dir)
		d.mounted = false
	}
}

func (d *disk) mount() {
	d.t.Helper()
	run(d.t, "mount", d.device, d.dir)
	d.mounted = true
}

// path is a path on the disk.
func (d *disk) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// TestDisksAreSeenNowhereElse: what is mounted here has no copy in the namespace
// that these tests were started from, nor in any that is made there.
func TestDisksAreSeenNowhereElse(t *testing.T) {
	d := newDisk(t)
	for process, want := range map[string]bool{"self": true, fmt.Sprint(os.Getppid()): false} {
		mounts, err := os.ReadFile("/proc/" + process + "/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(mounts), d.dir); got != want {
			t.Errorf("process %s has the disk mounted: %v, want %v", process, got, want)
		}
	}
}

// The request of linux/fs/ext4/ext4.h that ends a file system at once, and the
// one of its ways that does not write out its journal first.
const (
	ext4IOCShutdown      = 0x8004587d
	goingFlagsNoLogFlush = 2
)

// cut ends the file system as a power cut does: what has not been fsynced is
// gone, and the journal is played back with the next mount. It may be called
// from any goroutine.
func (d *disk) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(goingFlagsNoLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ext4IOCShutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return errno
	}
	return nil
}

// restore mounts the file system anew, as the start after a power cut does.
func (d *disk) restore() {
	d.t.Helper()
	d.unmount()
	d.mount()
}
