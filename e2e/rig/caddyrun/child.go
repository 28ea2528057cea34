package caddyrun

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

const (
	module = "github.com/caddy-replicate/replicate-webhook"
	// program is the main package of the binary that children run.
	program = module + "/cmd/caddy"
)

// Binary builds Caddy with this plugin, once a process, and returns its path.
// The file stays between runs, so that building an unchanged checkout again
// costs no link.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	// One directory per checkout and user.
	id := sha256.Sum256(fmt.Appendf(nil, "%s %d", root, os.Getuid()))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("caddyrun-%x", id[:6]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// Test binaries of several packages may run at once.
	lock := flock.New(filepath.Join(dir, "lock"))
	if err := lock.Lock(); err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	path := filepath.Join(dir, "caddy")
	if out, err := exec.Command("go", "build", "-o", path, program).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", program, err, out)
	}
	return path, nil
})

// Child is a Caddy in a process of its own.
type Child struct {
	*Env
	// Logs has its output, of all its runs.
	Logs *Logs
	// Client talks to it.
	Client *http.Client
	// Environ is added to its environment.
	Environ []string
	// Program is run in place of the Binary, if it is set.
	Program string

	config string
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// NewChild prepares a child with the Caddyfile text. Its data and
// configuration directories are inside the test's directory.
func NewChild(t testing.TB, caddyfile string, globals ...string) *Child {
	t.Helper()
	c := &Child{Env: newEnv(t, "stderr", withAdmin(globals)...), Logs: NewLogs(), Client: NewClient(t)}
	c.Configure(caddyfile)
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() && testing.Verbose() {
			t.Logf("the child logged:\n%s", c.Logs)
		}
	})
	return c
}

// Configure writes the Caddyfile for the next start.
func (c *Child) Configure(caddyfile string) {
	c.t.Helper()
	c.config = c.Path("Caddyfile")
	if err := os.WriteFile(c.config, []byte(c.Expand(caddyfile)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// Command returns a caddy command with the child's environment.
func (c *Child) Command(args ...string) *exec.Cmd {
	c.t.Helper()
	program := c.Program
	if program == "" {
		program = Binary(c.t)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(),
		"HOME="+c.dir, "XDG_DATA_HOME="+c.Path("data"), "XDG_CONFIG_HOME="+c.Path("config"))
	cmd.Env = append(cmd.Env, c.Environ...)
	return cmd
}

// Run runs a caddy command with the child's Caddyfile to its end.
func (c *Child) Run(command string, args ...string) (output string, err error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := c.Command(append([]string{command, "--config", c.config, "--adapter", "caddyfile"}, args...)...)
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err = cmd.Wait()
	return buf.String(), err
}

// Start runs the child and waits until it listens on the port.
func (c *Child) Start(port string) {
	c.t.Helper()
	c.Launch()
	c.Await(port)
}

// Launch runs the child.
func (c *Child) Launch() {
	c.t.Helper()
	c.cmd = c.Command("run", "--config", c.config, "--adapter", "caddyfile")
	c.cmd.Stdout, c.cmd.Stderr = c.Logs, c.Logs
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		c.err = cmd.Wait()
		close(exited)
	}(c.cmd, c.exited)
}

// PID returns the process of the child that runs.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Exited returns a channel that is closed when the running child has ended.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Await waits until the child listens on the port.
func (c *Child) Await(port string) {
	c.t.Helper()
	c.t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("tcp", c.Addr(port)); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-tick.C:
		case <-c.exited:
			c.t.Fatalf("the child ended: %v\n%s", c.err, c.Logs)
		case <-deadline.C:
			c.t.Fatalf("the child does not listen on %s:\n%s", c.Addr(port), c.Logs)
		}
	}
}

// Kill ends the child as a crash does, and waits for its end.
func (c *Child) Kill() { c.end(syscall.SIGKILL) }

// Stop asks the child to end, and waits for it.
func (c *Child) Stop() { c.end(syscall.SIGTERM) }

func (c *Child) end(signal os.Signal) {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Signal(signal)
	<-c.exited
	c.cmd = nil
	c.Client.CloseIdleConnections()
}

// Files returns the contents of all files below the child's directory, by path.
func (e *Env) Files() map[string]string {
	e.t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(e.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, e.dir)] = string(data)
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return files
}
