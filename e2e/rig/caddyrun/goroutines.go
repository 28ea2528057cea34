package caddyrun

import (
	"fmt"
	"runtime"
	"strings"
	"time"
)

// lasting are functions whose goroutine lasts as long as the process. They are
// started once, when they are first needed.
var lasting = []string{
	"caddyhttp/reverseproxy.(*metricsUpstreamsHealthyUpdater).init.func1",
	"os/signal.loop",
	"runtime.ensureSigM",
}

// goroutines returns the stacks of all goroutines by id, but of those that last.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	stacks := make(map[string]string)
next:
	for stack := range strings.SplitSeq(string(buf[:n]), "\n\n") {
		for _, function := range lasting {
			if strings.Contains(stack, function) {
				continue next
			}
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		stacks[id] = stack
	}
	return stacks
}

// awaitGoroutines waits until no goroutine is left but those of before and the
// caller's.
func awaitGoroutines(before map[string]string, closeIdle func()) error {
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// A connection that was made and never used is idle to net/http only
		// after some seconds.
		closeIdle()
		var left []string
		for id, stack := range goroutines() {
			if _, ok := before[id]; !ok && !strings.Contains(stack, "caddyrun.goroutines(") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
		}
		<-tick.C
	}
}
