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

// contain does nothing here: children are stopped by the bench alone.
func contain(*exec.Cmd) {}
