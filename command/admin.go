package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
)

// addAdmin adds the flags of a command that asks a running Caddy: --json, and those
// with which Caddy's own commands find the admin endpoint.
func addAdmin(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Admin endpoint, such as localhost:2019 or unix//run/caddy.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint")
	files(cmd, "config")
	cmd.Flags().StringP("adapter", "a", "", "Adapter for the configuration file")
	addJSON(cmd)
}

// asking returns an action that calls f with a client of a running Caddy.
func asking(f func(ctx context.Context, t *terminal, c *client.Client, args []string) error) action {
	return func(ctx context.Context, t *terminal, args []string) error {
		flags := caddycmd.Flags{FlagSet: t.cmd.Flags()}
		address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
		if err != nil {
			return fmt.Errorf("finding the admin endpoint: %w", err)
		}
		c, err := client.New(address)
		if err != nil {
			return err
		}
		defer c.Close()
		err = f(ctx, t, c, args)
		if errors.Is(err, client.ErrUnreachable) {
			err = fmt.Errorf("%w: is Caddy running? --address names another endpoint", err)
		}
		return err
	}
}
