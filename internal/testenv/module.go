package testenv

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// RunModule runs go test ./... in the directory of another module, which the go
// command leaves out of ./..., with the flags of this run. Tests that it skips
// are in the summary of this run. It returns the exit status.
func RunModule(dir string) int {
	flag.Parse()
	forbidCaching() // what the other module's tests read is no input of this one's
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if d := timeout(); d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"-C", dir, "test"}, testFlags(), []string{"./..."})...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), recordIn+"="+recordDir())
	// An interrupted go command ends its tests.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "go test in %s: %v\n", dir, err)
		return 1
	}
	return 0
}

// testFlags returns the flags of the go command that apply to other packages as
// well.
func testFlags() (flags []string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				flags = append(flags, "-race")
			}
		}
	}
	passed := []string{"bench", "benchmem", "benchtime", "count", "cpu", "failfast", "parallel", "run", "short", "shuffle", "skip", "timeout"}
	flag.Visit(func(f *flag.Flag) {
		name, ok := strings.CutPrefix(f.Name, "test.")
		switch {
		case !ok:
		case name == "v":
			flags = append(flags, "-v") // without the marks of -json
		case slices.Contains(passed, name):
			flags = append(flags, "-"+name+"="+f.Value.String())
		}
	})
	return flags
}

// timeout returns the time after which this process must end shortly before the
// go command would kill it, 0 if there is none.
func timeout() time.Duration {
	if f := flag.Lookup("test.timeout"); f != nil {
		if d, ok := f.Value.(flag.Getter).Get().(time.Duration); ok {
			return d - d/10
		}
	}
	return 0
}
