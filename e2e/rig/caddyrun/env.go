// Package caddyrun runs Caddy for tests: in this process, or as a child that
// can be killed. Tests configure it with Caddyfile text and use it over loopback.
package caddyrun

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Env is a test's directory and ports. In Caddyfile text these placeholders stand for them:
//
//	{$DIR}     the test's directory
//	{$PORT1}   a free loopback port; any name that begins with PORT
//	{$GLOBALS} global options that keep Caddy inside the directory and on loopback
type Env struct {
	t     testing.TB
	dir   string
	log   string // the output of the default logger
	extra string // more global options
	mu    sync.Mutex
	ports map[string]int
}

func newEnv(t testing.TB, log string, extra ...string) *Env {
	return &Env{t: t, dir: t.TempDir(), log: log, extra: strings.Join(extra, "\n"), ports: make(map[string]int)}
}

// Dir returns the test's directory.
func (e *Env) Dir() string { return e.dir }

// Path returns a path in the test's directory.
func (e *Env) Path(elem ...string) string {
	return filepath.Join(append([]string{e.dir}, elem...)...)
}

// Port returns the free port that a placeholder such as PORT1 stands for.
func (e *Env) Port(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	port, ok := e.ports[name]
	if !ok {
		port = freePort(e.t)
		e.ports[name] = port
	}
	return port
}

// Addr returns the loopback address of a port.
func (e *Env) Addr(name string) string { return fmt.Sprintf("127.0.0.1:%d", e.Port(name)) }

// URL returns the base URL of a port, with a path appended.
func (e *Env) URL(name, path string) string { return "http://" + e.Addr(name) + path }

var placeholder = regexp.MustCompile(`\{\$(DIR|GLOBALS|PORT[A-Z0-9_]*)\}`)

// Expand fills the placeholders in.
func (e *Env) Expand(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(s string) string {
		switch name := s[2 : len(s)-1]; name {
		case "DIR":
			return e.dir
		case "GLOBALS":
			return e.globals()
		default:
			return fmt.Sprint(e.Port(name))
		}
	})
}

func (e *Env) globals() string {
	return fmt.Sprintf(`storage file_system %s
	auto_https off
	default_bind 127.0.0.1
	grace_period 10s
	log {
		output %s
		format json
		level DEBUG
	}
	%s`, filepath.Join(e.dir, "storage"), e.log, e.extra)
}

// Ports are taken from below the range out of which systems choose the ports
// of outgoing connections: one of those could take a port between its being
// found free and Caddy's binding it.
const firstPort, lastPort = 10000, 30000

// given are the ports that this process has chosen: one may be free until another
// port is chosen, too.
var given sync.Map

func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		if _, again := given.LoadOrStore(port, true); !again {
			return port
		}
	}
	t.Fatal("found no free port on 127.0.0.1")
	return 0
}

// CopyFile copies a file that a running Caddy may be writing.
func CopyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatalf("copying %s: %v", from, err)
	}
}
