package command

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// signing holds the flags of sign and send.
type signing struct {
	secrets []string
	scheme  string
	id      string
	at      string
}

func (s *signing) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.secrets, "secret", []string{defaultSecret}, secretFlag+". Twice for a rotation, the newest first")
	f.StringVar(&s.scheme, "scheme", "", strings.Join(signature.Names(), " or ")+" (default: both, as far as the secret can)")
	enumerate(cmd, "scheme", signature.Names()...)
	f.StringVar(&s.id, "id", "", "The webhook-id (default: a random one)")
	f.StringVar(&s.at, "timestamp", "", "The signed time, RFC 3339 or Unix seconds (default: now)")
}

// headers signs a body.
func (s *signing) headers(t *terminal, body []byte) (http.Header, error) {
	var secrets []signature.Secret
	for _, from := range s.secrets {
		secret, err := t.secret(from)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	at, err := s.time(t.now)
	if err != nil {
		return nil, err
	}
	id := s.id
	if id == "" {
		id = "msg_" + rand.Text()
	}
	schemes := signature.Verifiable(secrets)
	if s.scheme != "" {
		scheme := signature.SchemeNamed(s.scheme)
		switch {
		case scheme == 0:
			return nil, fmt.Errorf("--scheme is %q: use %s", s.scheme, strings.Join(signature.Names(), " or "))
		case !schemes.Has(scheme):
			return nil, fmt.Errorf("--scheme %s takes %s", s.scheme, scheme.Secrets())
		}
		schemes = scheme
	}
	h := make(http.Header)
	schemes.Sign(h, secrets, id, at, body)
	return h, nil
}

func (s *signing) time(now time.Time) (time.Time, error) {
	if s.at == "" {
		return now, nil
	}
	if n, err := strconv.ParseInt(s.at, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s.at)
	if err != nil {
		return at, fmt.Errorf("--timestamp is %q: write it like 2026-11-25T12:00:00Z, or as Unix seconds", s.at)
	}
	return at, nil
}

func signCommand() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "sign [<file>]",
		Short: "Signs a body as a sender would",
		Long: `
Writes the headers that sign a body, which is read from a file or from standard
input. Their form is that of curl's -H @file.`,
		Example: `  caddy replicate-webhook sign body.json | curl -H @- --data-binary @body.json http://localhost:8080/webhooks/replicate`,
		Args:    cobra.MaximumNArgs(1),
		RunE: run(func(_ context.Context, t *terminal, args []string) error {
			body, err := t.body(args, s.secrets...)
			if err != nil {
				return err
			}
			h, err := s.headers(t, body)
			if err != nil {
				return err
			}
			doc := make(map[string]string)
			var names []string
			for name := range h {
				doc[name] = h.Get(name)
				names = append(names, name)
			}
			if t.document(doc) {
				return nil
			}
			slices.Sort(names)
			for _, name := range names {
				t.printf("%s: %s\n", name, h.Get(name))
			}
			return nil
		}),
	}
	s.add(cmd)
	addJSON(cmd)
	return cmd
}
