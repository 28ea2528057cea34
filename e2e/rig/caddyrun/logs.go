package caddyrun

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(logWriter{}) }

// Patience is the time that methods wait for what should happen at
// once.
const Patience = time.Minute

// Until waits until a condition holds, which the failure otherwise names.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(4 * Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Logs holds what was logged, and lets tests wait for a line.
type Logs struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

// NewLogs returns empty logs, for the output of another program.
func NewLogs() *Logs { return &Logs{changed: make(chan struct{})} }

// Write implements io.Writer.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.buf.Write(p)
}

// Close implements io.Closer. What was logged stays.
func (l *Logs) Close() error { return nil }

// String returns everything logged so far.
func (l *Logs) String() string {
	text, _ := l.snapshot()
	return text
}

func (l *Logs) snapshot() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String(), l.changed
}

// Lines returns the lines so far that hold all of the given texts.
func (l *Logs) Lines(texts ...string) []string { return matching(l.String(), texts) }

func matching(log string, texts []string) []string {
	var found []string
next:
	for line := range strings.SplitSeq(log, "\n") {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// Wait waits for a line that holds all of the given texts, and returns it.
func (l *Logs) Wait(t testing.TB, texts ...string) string {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		log, changed := l.snapshot()
		if lines := matching(log, texts); len(lines) > 0 {
			return lines[0]
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("no log line holds %q; the log is:\n%s", texts, log)
		}
	}
}

var (
	logsMu   sync.Mutex
	logsByID = make(map[string]*Logs)
)

// registerLogs names logs for the Caddyfile: output caddyrun <id>.
func registerLogs(t testing.TB) (id string, l *Logs) {
	logsMu.Lock()
	defer logsMu.Unlock()
	l = NewLogs()
	id = fmt.Sprintf("%p", l)
	logsByID[id] = l
	t.Cleanup(func() {
		logsMu.Lock()
		defer logsMu.Unlock()
		delete(logsByID, id)
	})
	return id, l
}

// logWriter is the Caddy log writer behind Logs.
type logWriter struct {
	ID string `json:"id"`
}

// CaddyModule returns the Caddy module information.
func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.caddyrun", New: func() caddy.Module { return new(logWriter) }}
}

// UnmarshalCaddyfile reads the logs' id.
func (w *logWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&w.ID) {
		return d.ArgErr()
	}
	return nil
}

func (w *logWriter) String() string    { return "caddyrun " + w.ID }
func (w *logWriter) WriterKey() string { return w.String() }

// OpenWriter returns the logs. After their test ends, the logs are gone and
// what is still logged is dropped.
func (w *logWriter) OpenWriter() (io.WriteCloser, error) {
	logsMu.Lock()
	defer logsMu.Unlock()
	if l := logsByID[w.ID]; l != nil {
		return l, nil
	}
	return NewLogs(), nil
}

// Interface guards.
var (
	_ caddy.WriterOpener    = (*logWriter)(nil)
	_ caddyfile.Unmarshaler = (*logWriter)(nil)
)
