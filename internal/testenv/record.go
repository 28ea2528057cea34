package testenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// skip is one skipped test.
type skip struct {
	Package, Test, Needs, Remedy string
}

// recordIn names the environment variable with the directory in which a go
// command that RunModule started records its skips: the work directory of the
// go command that runs RunModule.
const recordIn = "TESTENV_RECORD_IN"

// recordDir returns the directory in which skips are recorded, "" if there is
// none.
func recordDir() string {
	if dir := os.Getenv(recordIn); dir != "" {
		return dir
	}
	return workDir()
}

// workDir returns the directory that the go command made for its run, which
// is the same for all packages of one run and is removed when it ends. It
// returns "" for a test binary that the go command did not start.
func workDir() string {
	binary, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Dir(filepath.Dir(binary)) // $WORK/b001/x.test
	if !strings.HasPrefix(filepath.Base(dir), "go-build") {
		return ""
	}
	return dir
}

// module is the module path of the plugin. The paths of its other modules are
// below it.
const module = "github.com/caddy-replicate/replicate-webhook"

// testedPackage returns the import path of the package that is being tested,
// relative to the plugin's module.
func testedPackage() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return filepath.Base(os.Args[0])
	}
	path := strings.TrimSuffix(info.Path, ".test")
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

func recordFile(dir string) string { return filepath.Join(dir, "skipped-tests.jsonl") }

// record appends a skip with one write, so that lines of several processes
// don't mix.
func record(dir string, s skip) error {
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(recordFile(dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// recorded returns the skips of a run.
func recorded(dir string) ([]skip, error) {
	data, err := os.ReadFile(recordFile(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var skips []skip
	for line := range bytes.Lines(data) {
		var s skip
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, err
		}
		skips = append(skips, s)
	}
	return skips, nil
}

// forbidCaching keeps the go command from caching this package's result. What
// the machine lacks is no input that it tracks, so a cached result would hide
// both the skip from the next summary and the program that was installed since.
// The go command does not cache a result without the test's log of its inputs.
func forbidCaching() {
	if f := flag.Lookup("test.testlogfile"); f != nil && f.Value.String() != "" {
		_ = os.Remove(f.Value.String()) // fails on Windows, while the log is open
	}
}
