//go:build !linux

package main

import (
	"os/exec"
	"time"
)

// pauseUntil sleeps as exactly as the runtime does.
func pauseUntil(at time.Time) { time.Sleep(time.Until(at)) }

// ownCPU returns 0: it is not known on this system.
func ownCPU() time.Duration { return 0 }

// began is when the bench was started.
var began = time.Now()

// threadCPU returns the time that has passed: the CPU time is not known on this
// system.
func threadCPU() time.Duration { return time.Since(began) }

// contain does nothing here: children are stopped by the bench alone.
func contain(*exec.Cmd) {}
