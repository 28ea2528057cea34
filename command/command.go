// Package command is the command line for operators and developers:
// caddy replicate-webhook.
//
// A subcommand is a file. It adds itself to the list in build.
package command

import (
	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "replicate-webhook",
		Usage: "<command>",
		Short: "Operates and tries out webhooks",
		Long: `
Shows what a running Caddy knows of predictions, their webhooks and the edge,
sends failed deliveries again, and signs, verifies and sends webhooks for local
development.

Commands that ask a running Caddy find its admin endpoint as 'caddy reload'
does: by --address, else by --config, else at localhost:2019.

Tables fit the terminal's width, and have colors only on a terminal and without
NO_COLOR. With --json the output is that of the admin API.

Exit codes:

  0  it is done, and as it should be
  1  the command was used wrongly, or something unexpected happened
  2  there is no such prediction, delivery or endpoint
  3  the admin endpoint can't be reached, or is of another version
  4  the answer is no: the signature is wrong, the receiver refused, the
     webhook is disabled, the store takes no commits
`,
		CobraFunc: build,
	})
}

// build adds the subcommands.
func build(cmd *cobra.Command) {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, sub := range []func() *cobra.Command{
		statusCommand, predictionsCommand, deliveriesCommand, endpointsCommand, secretCommand,
		signCommand, verifyCommand, sendCommand, demoCommand, backupCommand, copyCommand,
	} {
		cmd.AddCommand(sub())
	}
	cmd.SetFlagErrorFunc(flagError)
	completeNoFiles(cmd)
}
