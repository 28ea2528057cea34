package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine describes where the numbers come from. What can't be found out is
// said to be unknown.
func (l *lab) machine(began time.Time, fsyncs []time.Duration) [][]string {
	return [][]string{
		{"machine", ""},
		{"date", began.UTC().Format("2006-01-02 15:04 UTC")},
		{"CPU", procField("/proc/cpuinfo", "model name")},
		{"cores", strconv.Itoa(runtime.NumCPU())},
		{"memory", memory()},
		{"kernel", runtime.GOOS + "/" + runtime.GOARCH + " " + wholeFile("/proc/sys/kernel/osrelease")},
		{"Go", runtime.Version()},
		{"Caddy", l.version},
		{"the stores' file system", fileSystem(l.dir)},
		{"fsync of a 4 KiB append, median", fsyncText(fsyncs)},
		{"rounds", fmt.Sprintf("%d of %s on each side, alternating", l.rounds, l.duration)},
	}
}

const unknown = "unknown"

// wholeFile returns a small file of the kernel's, trimmed.
func wholeFile(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return unknown
	}
	return strings.TrimSpace(string(text))
}

// procField returns the first value of a field in a file of "name : value"
// lines.
func procField(file, field string) string {
	for line := range strings.Lines(wholeFile(file)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
			return strings.TrimSpace(value)
		}
	}
	return unknown
}

func memory() string {
	kib, err := strconv.ParseInt(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return unknown
	}
	return fmt.Sprintf("%.1f GiB", float64(kib)/(1<<20))
}

// fileSystem names the file system and device that hold dir: the mount with the
// longest matching path, the last of those if they are stacked.
func fileSystem(dir string) string {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return unknown
	}
	found, depth := unknown, -1
	for line := range strings.Lines(wholeFile("/proc/self/mounts")) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		device, mount, kind := f[0], strings.ReplaceAll(f[1], `\040`, " "), f[2]
		within := dir == mount || strings.HasPrefix(dir, strings.TrimSuffix(mount, "/")+"/")
		if within && len(mount) >= depth {
			found, depth = kind+" on "+filepath.Base(device), len(mount)
		}
	}
	if strings.HasPrefix(found, "tmpfs") || strings.HasPrefix(found, "ramfs") {
		found += " (memory: commits cost next to nothing here; name a directory on a disk with -dir)"
	}
	return found
}

// fsyncProbes is how many appends are timed to tell how fast the disk is.
const fsyncProbes = 100

// probeFsync returns the median time to append a page and fsync it. It is asked
// before and after the scenarios, since virtual disks swing.
func (l *lab) probeFsync() (time.Duration, error) {
	f, err := os.CreateTemp(l.dir, "fsync-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4<<10)
	times := make([]float64, 0, fsyncProbes)
	for range fsyncProbes {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(start)))
	}
	return time.Duration(median(times)), nil
}

func fsyncText(probes []time.Duration) string {
	when := []string{"before", "after"}
	var parts []string
	for i, d := range probes {
		parts = append(parts, millis(d)+" "+when[min(i, len(when)-1)])
	}
	return strings.Join(parts, ", ")
}
