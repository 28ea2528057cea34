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
		Short: "Operates and tests webhooks",
		Long: `
Shows the predictions, webhooks, deliveries and events of a running Caddy,
redelivers and replays failed ones, and signs, verifies and sends webhooks for
local development.

Commands that ask a running Caddy find its admin endpoint as 'caddy reload'
does: by --address, else by --config, else at localhost:2019.

Tables fit the terminal's width, and have colors only on a terminal and without
NO_COLOR. With --json the output is that of the admin API.

Exit codes:

  0  success
  1  wrong usage, or an unexpected error
  2  there is no such prediction, delivery, endpoint, event or inbox
  3  the admin endpoint can't be reached, or has another version
  4  refused: the signature is not valid, the receiver refused the webhook,
     the webhook is disabled, the event has ended or is waiting, too many
     rotations overlap, or the store accepts no commits
`,
		CobraFunc: build,
	})
}

// build adds the subcommands.
func build(cmd *cobra.Command) {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, sub := range []func() *cobra.Command{
		statusCommand, predictionsCommand, deliveriesCommand, endpointsCommand, eventsCommand, inboxCommand, secretCommand,
		signCommand, verifyCommand, sendCommand, demoCommand, backupCommand, copyCommand,
	} {
		cmd.AddCommand(sub())
	}
	cmd.SetFlagErrorFunc(flagError)
	completeNoFiles(cmd)
}
