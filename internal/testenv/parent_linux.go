package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// System calls that the package syscall does not name. They have these numbers on
// all architectures that Go supports.
const (
	sysPidfdOpen  = 434
	sysPidfdGetfd = 438
)

// parentOutput opens the standard error of the go command, which started this
// process and holds back what this process prints itself.
func parentOutput() (*os.File, error) {
	pid := os.Getppid()
	// A copy of the descriptor shares its offset, so that in a file the go
	// command continues behind the summary.
	if pidfd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0); errno == 0 {
		fd, _, errno := syscall.Syscall(sysPidfdGetfd, pidfd, 2, 0)
		_ = syscall.Close(int(pidfd))
		if errno == 0 {
			return os.NewFile(fd, "the go command's stderr"), nil
		}
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", pid), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	// Without the offset, the line that the go command still prints of this
	// package may overwrite the first bytes of the summary, which are a line of dashes.
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		_, _ = f.WriteString(strings.Repeat("-", 3*width) + "\n")
	}
	return f, nil
}

// activity returns the CPU time that a process used and the bytes that it wrote.
func activity(pid int) string {
	text := strings.Join(statFields(fmt.Sprintf("/proc/%d/stat", pid), 11, 12), " ")
	io, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	for line := range strings.Lines(string(io)) {
		if strings.HasPrefix(line, "wchar:") {
			text += " " + line
		}
	}
	return text
}

// hasOtherChildren reports whether a process has children besides this one. A
// child that ended and was not waited for yet is one.
func hasOtherChildren(parent int) bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if path == fmt.Sprintf("/proc/%d/stat", os.Getpid()) {
			continue
		}
		if f := statFields(path, 1); f != nil && f[0] == fmt.Sprint(parent) {
			return true
		}
	}
	return false
}

// statFields returns fields of a process's stat file, counted from the one after
// the program's name.
func statFields(path string, indexes ...int) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	text := string(data)
	all := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	fields := make([]string, 0, len(indexes))
	for _, i := range indexes {
		if i >= len(all) {
			return nil
		}
		fields = append(fields, all[i])
	}
	return fields
}
