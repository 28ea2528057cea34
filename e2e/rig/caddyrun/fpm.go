package caddyrun

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// StartFPM runs PHP-FPM with one worker until the test ends, and returns the path of
// the socket that it listens on. It skips the test where there is no PHP-FPM.
func StartFPM(t testing.TB) (socket string) {
	t.Helper()
	found, _ := filepath.Glob("/usr/sbin/php-fpm*")
	if len(found) == 0 {
		testenv.Skip(t, "php-fpm", "apt-get install php-fpm")
	}
	dir := t.TempDir()
	socket = filepath.Join(dir, "fpm.sock")
	user := ""
	if os.Geteuid() == 0 {
		user = "user = root\ngroup = root\n"
	}
	conf := filepath.Join(dir, "fpm.conf")
	text := fmt.Sprintf("[global]\nerror_log = %s/fpm.log\ndaemonize = no\n[www]\n%slisten = %s\npm = static\npm.max_children = 1\n", dir, user, socket)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fpm := exec.Command(found[0], "-n", "-F", "-R", "-y", conf)
	if err := fpm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = fpm.Process.Signal(syscall.SIGTERM) // its workers end with it
		_ = fpm.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "fpm.log"))
			t.Logf("php-fpm: %s", log)
		}
	})
	Until(t, "php-fpm to listen", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return socket
}
