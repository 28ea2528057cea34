//go:build !linux

package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// parentOutput opens the terminal. Outside Linux a process can't open its
// parent's standard error.
func parentOutput() (*os.File, error) {
	name := "/dev/tty"
	if runtime.GOOS == "windows" {
		name = "CONOUT$"
	}
	return os.OpenFile(name, os.O_WRONLY, 0)
}

// activity returns nothing: outside Linux it is not known what a process does.
func activity(int) string { return "" }

// hasOtherChildren reports whether a process has children besides this one,
// where ps can say so.
func hasOtherChildren(parent int) bool {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[1] == fmt.Sprint(parent) && f[0] != fmt.Sprint(os.Getpid()) {
			return true
		}
	}
	return false
}
