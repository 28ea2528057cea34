package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// benchmarked are the packages whose own benchmarks are run.
var benchmarked = []string{"./internal/ecmajson", "./internal/signature", "./store/sqlite"}

// packagesWait bounds them, compilation included.
const packagesWait = 10 * time.Minute

// runPackages runs the packages' benchmarks and keeps their lines.
func (l *lab) runPackages(ctx context.Context) (section, error) {
	ctx, cancel := context.WithTimeout(ctx, packagesWait)
	defer cancel()
	args := []string{"test", "-run", "^$", "-bench", ".", "-benchmem"}
	if l.quick {
		args = append(args, "-benchtime", "20ms")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, benchmarked...)...)
	cmd.Dir = l.root
	// The store's benchmarks write where the stores of the other scenarios are.
	cmd.Env = append(os.Environ(), "TMPDIR="+l.dir)
	contain(cmd)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return section{}, context.Cause(ctx)
	}
	if err != nil {
		return section{}, fmt.Errorf("running the packages' benchmarks: %w: %s", err, out)
	}
	s := section{
		title: "Packages",
		text:  "`go test -bench` of the parts. Commits are claimed and committed to disk one after the other by each writer.",
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Benchmark") || strings.HasPrefix(line, "pkg: ") {
			s.lines = append(s.lines, strings.TrimRight(line, "\n"))
		}
	}
	if len(s.lines) == 0 {
		return section{}, errors.New("running the packages' benchmarks: there are none")
	}
	return s, nil
}
