package caddyrun

import (
	"os"
	"strconv"
	"strings"
)

// awaitOneListener waits until no address of the Env's ports has two listeners. On a
// reload Caddy listens on a socket of its own for the new configuration, and does not
// wait until the servers of the old one have closed theirs: a connection that comes in
// between may be lost with the old socket. Systems without /proc/net do not say.
func (e *Env) awaitOneListener() {
	e.t.Helper()
	e.mu.Lock()
	ports := make(map[int]bool, len(e.ports))
	for _, port := range e.ports {
		ports[port] = true
	}
	e.mu.Unlock()
	Until(e.t, "the listeners of the old configuration to close", func() bool {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			text, err := os.ReadFile(table)
			if err == nil && twice(string(text), ports) {
				return false
			}
		}
		return true
	})
}

// twice reports whether a table of sockets has two that listen on one address of the
// ports.
func twice(table string, ports map[int]bool) bool {
	const listening = "0A"
	seen := make(map[string]bool)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != listening {
			continue
		}
		addr := fields[1]
		port, err := strconv.ParseInt(addr[strings.LastIndex(addr, ":")+1:], 16, 32)
		if err != nil || !ports[int(port)] {
			continue
		}
		if seen[addr] {
			return true
		}
		seen[addr] = true
	}
	return false
}
