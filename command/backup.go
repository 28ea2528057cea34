package command

import (
	"context"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

func backupCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "backup <file>",
		Short: "Backs up an SQLite store into a new file",
		Long: `
Writes a copy of the SQLite file into a new one, with mode 0600. Caddy may run
meanwhile: the copy has what was committed at one moment, and is complete without
a log. It is read to the end, and fsynced, before it gets its name: until then it
has one that ends in .partial, which only a crash leaves behind.

The key that the credentials in it are sealed with, seal.key beside the SQLite
file, is not in it. Keep that in another place.`,
		Example: "  caddy replicate-webhook backup /backup/webhook-1.db",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, t *terminal, args []string) error {
			size, err := sqlite.Backup(ctx, from, args[0])
			if err != nil {
				return err
			}
			t.printf("wrote %d bytes into %s\n", size, args[0])
			return nil
		}),
	}
	cmd.Flags().StringVar(&from, "from", filepath.Join(caddy.AppDataDir(), "replicate_webhook", "webhook.db"), "The SQLite file")
	files(cmd, "from")
	return cmd
}
