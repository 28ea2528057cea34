package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// The exit codes. The command's help says what they mean.
const (
	exitFailed      = 1
	exitNotFound    = 2
	exitUnreachable = 3
	exitRefused     = 4
)

// errRefused is a no for which everything is said already.
var errRefused = errors.New("refused")

// refused returns an error for a request that was refused.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w%w", quiet{errRefused}, fmt.Errorf(format, args...))
}

// quiet is an error that is wrapped for what it is and not for what it says.
type quiet struct{ error }

func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, operator.ErrNotFound):
		return exitNotFound
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrOther):
		return exitUnreachable
	case errors.Is(err, operator.ErrDisabled), errors.Is(err, operator.ErrUnavailable), errors.Is(err, errRefused):
		return exitRefused
	}
	return exitFailed
}

// complain writes an error, of which there may be several in one.
func (t *terminal) complain(err error) {
	if err == errRefused {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(t.err, "Error:", clean(line))
	}
}

// action is the function of a subcommand.
type action func(ctx context.Context, t *terminal, args []string) error

// run returns a cobra function for an action. It prints an error as a sentence,
// sets the exit code, and ends the action on an interrupt.
func run(f action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		t := newTerminal(cmd)
		err := f(ctx, t, args)
		if err == nil {
			err = t.flush()
		} else {
			_ = t.flush()
		}
		if err == nil {
			return nil
		}
		cmd.SilenceErrors = true
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		t.complain(err)
		if code := exitCode(err); code > exitFailed {
			// Caddy's main function has exit codes from this wrapper only.
			return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, args)
		}
		return err
	}
}
