package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store/copy"
)

// defaultDSN is the environment variable that is read unless a flag says
// otherwise.
const defaultDSN = "DATABASE_URL"

func copyCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "Copies an SQLite store into a PostgreSQL database",
		Long: `
Moves to store postgres what an SQLite file holds: what was accepted and may not
be accepted again, predictions, deliveries with their log, and secrets. Ids stay
as they are, and what is pending goes on.

Stop Caddy before, and start it on the database afterwards. The database must be
empty. Either all is copied or nothing; the file is not changed.

Sealed values are copied as they are, so the new configuration needs the key that
they were sealed with. With the key file seal.key beside the SQLite file, seal_key
is '` + seal.KeyPrefix + `' and the file's bytes in base64, which this writes:

  printf '` + seal.KeyPrefix + `%s\n' "$(base64 -w0 seal.key)"`,
		Example: "  DATABASE_URL=postgres://… caddy replicate-webhook copy --from /var/lib/caddy/.local/share/caddy/replicate_webhook/webhook.db",
		Args:    noArgs,
		RunE: run(func(ctx context.Context, t *terminal, _ []string) error {
			dsn, err := t.dsn(to)
			if err != nil {
				return err
			}
			r, err := copy.SQLiteToPostgres(ctx, from, dsn)
			if err != nil {
				return err
			}
			t.printf("copied %d deduplication entries, %d predictions, %d deliveries, %d events, %d attempts, %d creates with an Idempotency-Key and %d secrets\n",
				r.Entries, r.Predictions, r.Deliveries, r.Events, r.Attempts, r.Creates, r.Secrets)
			key := filepath.Join(filepath.Dir(from), "seal.key")
			if _, err := os.Stat(key); err == nil {
				t.printf("seal_key must be the key of %s unless the old configuration had one: see --help\n", key)
			} else {
				t.printf("seal_key must be that of the old configuration\n")
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&from, "from", filepath.Join(caddy.AppDataDir(), "replicate_webhook", "webhook.db"), "The SQLite file")
	files(cmd, "from")
	cmd.Flags().StringVar(&to, "to", defaultDSN, "Where the database's dsn is: NAME of an environment variable, @file, or - for standard input")
	return cmd
}

// dsn reads a dsn from where the flag says. It is never an argument, since it
// holds a password.
func (t *terminal) dsn(from string) (string, error) {
	text, err := t.source("--to", "dsn", from)
	if err != nil {
		return "", err
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return "", fmt.Errorf("there is no dsn: set %s, or say with --to where it is", defaultDSN)
	}
	return text, nil
}
