package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// lab is what all scenarios share: the directory, the Caddy that was built, the
// app, and everything that has to be stopped in the end.
type lab struct {
	options
	root    string // of the module
	dir     string // of everything that is written, removed in the end
	binary  string
	version string // of the Caddy that was built
	signer  *signer
	app     *app

	express   *express
	noExpress string // why there is no Express, once that is known

	closers []func()
}

// newLab builds Caddy and starts the app.
func newLab(ctx context.Context, o options) (l *lab, err error) {
	l = &lab{options: o, signer: newSigner()}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.root, err = checkout(ctx); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp(o.dir, "webhook-bench-"); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	l.onClose(func() { _ = os.RemoveAll(l.dir) })
	l.binary = filepath.Join(l.dir, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-o", l.binary, "./cmd/caddy")
	build.Dir = l.root
	contain(build)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building caddy: %w: %s", err, out)
	}
	out, err := exec.CommandContext(ctx, l.binary, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("asking caddy for its version: %w", err)
	}
	l.version, _, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	if l.app, err = startApp(ctx); err != nil {
		return nil, err
	}
	l.onClose(l.app.stop)
	return l, nil
}

// onClose registers f to run at close, before the functions registered earlier.
func (l *lab) onClose(f func()) { l.closers = append(l.closers, f) }

// close stops every child and removes what was written.
func (l *lab) close() {
	for _, f := range slices.Backward(l.closers) {
		f()
	}
	l.closers = nil
}

// checkout returns the directory of the plugin's module, which bench/go.mod
// replaces with the directory above it.
func checkout(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddy-replicate/replicate-webhook").Output()
	if err != nil {
		return "", fmt.Errorf("finding the checkout, which the directory bench must be in: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// settle lets a store copy its log into its file, as it does each second, and
// the kernel write it, before another side is measured.
func (l *lab) settle(ctx context.Context) error {
	d := 1200 * time.Millisecond
	if l.quick {
		d = 100 * time.Millisecond
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
