// Command fuzz runs every fuzz target of the module for a time, or for a number
// of inputs, and says what each has found.
//
//	go run ./scripts/fuzz               # an hour each
//	go run ./scripts/fuzz -time 10000x  # what CI does
//	go run ./scripts/fuzz -run 'URL|JSON' -time 10m
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() {
	// CI gives a number of inputs: a target that is minimizing an input when its
	// time is up fails with "context deadline exceeded", although nothing was found.
	long := flag.String("time", "1h", "for each target: a duration, or a number of inputs as in 10000x")
	jobs := flag.Int("jobs", min(2, runtime.NumCPU()), "targets at once")
	only := flag.String("run", "", "targets whose package and name this regular expression finds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *long, *jobs, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// target is a fuzz test.
type target struct{ pkg, name string }

func run(ctx context.Context, long string, jobs int, only string) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if jobs < 1 {
		return fmt.Errorf("-jobs is %d: it must be positive", jobs)
	}
	targets, err := list(ctx, match)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return fmt.Errorf("no target matches %q", only)
	}
	fmt.Printf("%d targets, %s each, %d at once\n", len(targets), long, jobs)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed []string
		next   = make(chan target)
	)
	for range jobs {
		wg.Go(func() {
			for t := range next {
				text, err := fuzz(ctx, t, long, max(1, runtime.NumCPU()/jobs))
				mu.Lock()
				fmt.Printf("%s %s: %s\n", t.pkg, t.name, text)
				if err != nil {
					failed = append(failed, t.name)
				}
				mu.Unlock()
			}
		})
	}
	for _, t := range targets {
		if ctx.Err() != nil {
			break
		}
		next <- t
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d targets failed: %s", len(failed), len(targets), strings.Join(failed, ", "))
	}
	return nil
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(`)

// list finds the targets in the module's test files.
func list(ctx context.Context, match *regexp.Regexp) (targets []target, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f",
		`{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}`, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil {
			return nil, err
		}
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			if t := (target{pkg, string(m[1])}); match.MatchString(t.pkg + " " + t.name) {
				targets = append(targets, t)
			}
		}
	}
	return targets, nil
}

var (
	progress = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+) \(total: (\d+)\)`)
	written  = regexp.MustCompile(`Failing input written to (\S+)`)
)

// fuzz runs one target and sums up what it did.
func fuzz(ctx context.Context, t target, long string, workers int) (text string, err error) {
	cmd := exec.CommandContext(ctx, "go", "test", t.pkg, "-run", "^$", "-fuzz", "^"+t.name+"$",
		"-fuzztime", long, "-fuzzminimizetime", "5s", "-parallel", fmt.Sprint(workers), "-timeout", "0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	all := progress.FindAllSubmatch(out.Bytes(), -1)
	if len(all) > 0 {
		last := all[len(all)-1]
		text = fmt.Sprintf("%s inputs, %s new paths, %s in all", last[1], last[2], last[3])
	}
	switch found := written.FindSubmatch(out.Bytes()); {
	case err == nil:
		return text + ", nothing found", nil
	case found != nil:
		return fmt.Sprintf("%s, FAILED, the input is in %s\n%s", text, found[1], out.Bytes()), err
	default:
		return fmt.Sprintf("%s, FAILED: %v\n%s", text, err, out.Bytes()), err
	}
}
