package main

import (
	"os/exec"
	"syscall"
	"time"
)

// pauseUntil sleeps in the kernel. Go's own timers wait in whole milliseconds
// when nothing else runs, which at some hundred requests a second would be a
// good part of the latency that is measured.
func pauseUntil(at time.Time) {
	for d := time.Until(at); d > 0; d = time.Until(at) {
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		_ = syscall.Nanosleep(&ts, nil) // a signal only wakes it early
	}
}

// ownCPU returns the CPU time that this process, the load generator, has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// threadCPU returns the CPU time of the calling thread. It is that of a
// goroutine as long as the goroutine is locked to the thread.
func threadCPU() time.Duration {
	const rusageThread = 1 // RUSAGE_THREAD, which package syscall does not name
	var u syscall.Rusage
	if err := syscall.Getrusage(rusageThread, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// contain keeps a child from outliving the bench, even one that is killed, and
// from hearing the terminal's Ctrl-C: the bench stops its children in order. A
// command with a context takes its own children along when that ends.
func contain(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = 5 * time.Second
	}
}
