package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

func secretCommand() *cobra.Command {
	var whose whichClient
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Shows the secret that signs webhooks",
		Long: `
Writes the signing secret of a client, or the one that all share under 'signing
shared'. A client is named as 'predictions' shows it, or by one of its
predictions. The secret is written to standard output alone.`,
		Example: "  caddy replicate-webhook secret --prediction ufawqhfynnddngldkgtslldrkq",
		Args:    noArgs,
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
			identity, err := whose.identity(ctx, c)
			if err != nil {
				return err
			}
			s, err := c.Secret(ctx, identity)
			if err != nil {
				return clientError(err, identity)
			}
			if !t.document(s) {
				t.printf("%s\n", s.Secret)
			}
			return nil
		})),
	}
	whose.addFlags(cmd)
	addAdmin(cmd)
	cmd.AddCommand(rotateCommand())
	return cmd
}

func rotateCommand() *cobra.Command {
	var whose whichClient
	var overlap string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Rotates the signing key of a client, or those of all clients",
		Long: `
Gives a client, or each client if none is named, a new signing secret, on all
nodes. It signs at once. Until the overlap ends, the secrets before sign, too:
webhook-signature has an entry for each, the newest first, while
X-Replicate-Signature is of the newest alone. With --overlap 0s they sign no
more, which is for a secret that has leaked. 'secret' shows the new one.

While four rotations of a key overlap, it is rotated with --overlap 0s alone.
Under 'signing shared' secrets are rotated in the configuration.`,
		Example: "  caddy replicate-webhook secret rotate --prediction ufawqhfynnddngldkgtslldrkq --overlap 48h",
		Args:    noArgs,
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
			identity, err := whose.identity(ctx, c)
			if err != nil {
				return err
			}
			r, err := c.Rotate(ctx, identity, overlap)
			if err != nil {
				return clientError(err, identity)
			}
			if t.document(r) {
				return nil
			}
			who := "each client"
			if r.Client != "" {
				who = clean(r.Client)
			}
			if until := time.Until(r.Until); until > 0 {
				t.printf("%s has a new signing secret; those before sign, too, until %s\n", who, r.Until.Format(time.RFC3339))
			} else {
				t.printf("%s has a new signing secret; those before sign no more\n", who)
			}
			return nil
		})),
	}
	whose.addFlags(cmd)
	cmd.Flags().StringVar(&overlap, "overlap", operator.DefaultOverlap, "For how long the secrets before sign, too, at most 30d")
	addAdmin(cmd)
	return cmd
}

// whichClient is the client that flags name.
type whichClient struct {
	cmd                   *cobra.Command
	name, prediction, api string
}

func (w *whichClient) addFlags(cmd *cobra.Command) {
	w.cmd = cmd
	cmd.Flags().StringVar(&w.name, "client", "", "The client, as predictions name it")
	cmd.Flags().StringVar(&w.prediction, "prediction", "", "The client of the prediction of this id")
	cmd.Flags().StringVar(&w.api, "api", "", "The API that the prediction is of, where several have the id")
	cmd.MarkFlagsMutuallyExclusive("client", "prediction")
}

// identity returns the client's identity, empty if none is named. A flag that is given
// without a value names none, and is an error: in a script it is a variable that is not
// set, and none may stand for all.
func (w *whichClient) identity(ctx context.Context, c *client.Client) (string, error) {
	for flag, value := range map[string]string{"client": w.name, "prediction": w.prediction} {
		if value == "" && w.cmd.Flags().Changed(flag) {
			return "", fmt.Errorf("--%s is empty: name one, or leave the flag out", flag)
		}
	}
	if w.prediction == "" {
		return w.name, nil
	}
	p, err := c.Prediction(ctx, w.prediction, w.api)
	if err != nil {
		return "", notFound(err, "prediction", w.prediction)
	}
	return p.Client, nil
}

// clientError explains the error of a client that is not there.
func clientError(err error, identity string) error {
	if identity != "" && exitCode(err) == exitNotFound {
		return fmt.Errorf("client %q has no predictions and so no secret: 'caddy replicate-webhook predictions' lists the clients by name", identity)
	}
	return err
}

// secretFlag describes the sources of secrets. Secrets are never arguments, which
// other users of the machine can see and shells keep in their history.
const secretFlag = "Where the secret is: NAME of an environment variable, @file, or - for standard input"

// defaultSecret is the environment variable that is read unless a flag says
// otherwise.
const defaultSecret = "WEBHOOK_SECRET"

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// source reads what must not be an argument from where a flag says: the name of an
// environment variable, @file, or - for standard input.
func (t *terminal) source(flag, what, from string) (string, error) {
	switch {
	case from == "-":
		b, err := io.ReadAll(io.LimitReader(t.in, 64<<10))
		if err != nil {
			return "", fmt.Errorf("reading the %s from standard input: %w", what, err)
		}
		return string(b), nil
	case strings.HasPrefix(from, "@"):
		b, err := os.ReadFile(from[1:])
		if err != nil {
			return "", fmt.Errorf("reading the %s: %w", what, err)
		}
		return string(b), nil
	case !envName.MatchString(from) || strings.HasPrefix(from, "whsec_"):
		// It may be a secret, which is not to be repeated.
		return "", fmt.Errorf("%s is not a source: name an environment variable, @file or -, never the %s itself", flag, what)
	}
	text, ok := os.LookupEnv(from)
	if !ok && from != defaultSecret && from != defaultDSN {
		return "", fmt.Errorf("%s names an environment variable that is not set", flag)
	}
	return text, nil
}

// secretText reads a secret from where the flag says.
func (t *terminal) secretText(from string) (string, error) {
	text, err := t.source("--secret", "secret", from)
	if err != nil {
		return "", err
	}
	text = strings.TrimRight(text, "\r\n")
	if text == "" {
		return "", fmt.Errorf("there is no secret: set %s, or say with --secret where it is", defaultSecret)
	}
	if err := cmp.Or(secret.Check(text), secret.CheckSigning(text)); err != nil {
		return "", fmt.Errorf("the secret can't be used: %w", err)
	}
	return text, nil
}

// secret returns the parsed secretText.
func (t *terminal) secret(from string) (signature.Secret, error) {
	text, err := t.secretText(from)
	if err != nil {
		return signature.Secret{}, err
	}
	s, err := signature.ParseSecret(text)
	if err != nil {
		return s, fmt.Errorf("the secret can't be used: %w", err)
	}
	return s, nil
}

// maxBody bounds a body that is read from a file or standard input.
const maxBody = 256 << 20

// body reads a body from a file, or from standard input for none or "-".
func (t *terminal) body(args []string, secretFrom ...string) ([]byte, error) {
	in, name := t.in, "standard input"
	if len(args) > 0 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		defer f.Close()
		in, name = f, args[0]
	} else {
		for _, from := range secretFrom {
			if from == "-" {
				return nil, errors.New("both the secret and the body would come from standard input: name a file for one of them")
			}
		}
	}
	b, err := io.ReadAll(io.LimitReader(in, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the body from %s: %w", name, err)
	case len(b) > maxBody:
		return nil, fmt.Errorf("reading the body from %s: it is over %d MiB", name, maxBody>>20)
	case len(b) == 0:
		return nil, fmt.Errorf("the body from %s is empty", name)
	}
	return b, nil
}
