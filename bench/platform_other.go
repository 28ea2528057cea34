//go:build !linux

package main

import (
	"os/exec"
	"time"
)

// pauseUntil sleeps as exactly as the runtime does.
func pauseUntil(at time.Time) { time.Sleep(time.Until(at)) }

// ownCPU is not known here.
func ownCPU() time.Duration { return 0 }

// began is when the bench was started.
var began = time.Now()

// threadCPU is not known here: it is the time that has passed.
func threadCPU() time.Duration { return time.Since(began) }

// contain does nothing here: children are stopped by the bench alone.
func contain(*exec.Cmd) {}
