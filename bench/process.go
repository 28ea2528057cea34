package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopWait is how long a child may take to end by itself.
const stopWait = 20 * time.Second

// process is a child that was started here and is stopped here.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	said  *tail
	ended chan struct{} // closed when the child has ended
}

// startProcess starts a child. The end of what it writes to stderr is kept for
// the error message should it fail.
func startProcess(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, said: new(tail), ended: make(chan struct{})}
	cmd.Stderr = p.said
	contain(cmd)
	// Our end closes when we die, of whatever: children that watch it follow.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startListening starts a child that prints "listening <address>" once it
// serves, and gives the address.
func startListening(ctx context.Context, name string, cmd *exec.Cmd) (*process, string, error) {
	// The pipe is ours, not cmd's, so that the child's end doesn't close it
	// under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("starting %s: %w", name, err)
	}
	defer r.Close()
	cmd.Stdout = w
	p, err := startProcess(name, cmd)
	_ = w.Close()
	if err != nil {
		return nil, "", err
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(r).ReadString('\n')
		line <- strings.TrimSpace(text)
	}()
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	select {
	case text := <-line:
		if addr, ok := strings.CutPrefix(text, "listening "); ok {
			return p, addr, nil
		}
		err = p.failure("did not start to listen")
	case <-p.ended:
		err = p.failure("ended at once")
	case <-ctx.Done():
		err = p.failure("did not start to listen in time")
	}
	p.stop()
	return nil, "", err
}

// stop ends the child: by SIGTERM, so that it can close its files, and by force
// if that takes too long. It may be called again.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopWait):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	_ = p.stdin.Close()
}

// alive returns an error if the child has ended.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return p.failure("has ended")
	default:
		return nil
	}
}

// failure returns an error with the end of the child's output.
func (p *process) failure(what string) error {
	if said := p.said.String(); said != "" {
		return fmt.Errorf("%s %s; it said: %s", p.name, what, said)
	}
	return fmt.Errorf("%s %s", p.name, what)
}

// rss returns the child's resident memory in bytes.
func (p *process) rss() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("reading the memory of %s: no VmRSS", p.name)
}

// clockTick is the unit of /proc/<pid>/stat, fixed at 100 a second for programs
// whatever the kernel's own.
const clockTick = 10 * time.Millisecond

// cpu returns the processor time the child has used so far.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of %s: %w", p.name, err)
	}
	// The second field is the name in parentheses and may hold anything;
	// utime and stime are the 12th and 13th after it.
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("reading the CPU time of %s: too few fields", p.name)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err1, err2)
}

// cpuOf sums the CPU time of children.
func cpuOf(children []*process) (sum time.Duration, err error) {
	for _, p := range children {
		d, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// tailSize is how much of a child's last words is kept.
const tailSize = 4 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
