package command

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/internal/demo"
)

func demoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Runs a demonstration in one process",
		Long: `
Runs Caddy with the real modules between a simulated prediction API and an app,
all on 127.0.0.1 and with its data in a temporary directory, and shows step by step:
a signed webhook that reaches the app, its duplicate and a forgery that don't, and
a prediction whose webhook is delivered although the app is down at first.

Then it stays up, with some traffic to look at on the dashboard, until Ctrl-C.
With --once it ends after the last step; the exit code is 0 only if all that it
showed was true.`,
		Example: "  caddy replicate-webhook demo",
		Args:    noArgs,
		RunE: run(func(ctx context.Context, t *terminal, _ []string) error {
			return demo.Run(ctx, t.cmd.OutOrStdout(), demo.Options{Once: once, Color: t.color, Width: t.width})
		}),
	}
	cmd.Flags().BoolVar(&once, "once", false, "End after the last step")
	return cmd
}
