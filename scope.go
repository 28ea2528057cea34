package replicatewebhook

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// join adds an edge handler. Handlers of one scope see each other's events, so they
// must agree on what makes two webhooks the same, and for how long.
func (a *App) join(e *Edge) error {
	if err := a.budget.Admits(e.MaxBody, "the max_body of replicate_webhook with the scope "+strconv.Quote(e.Scope)); err != nil {
		return err
	}
	for i, other := range a.edges {
		if other.Scope != e.Scope {
			if e.sharesSecret(other) {
				a.logger.Warn("two scopes accept one secret: a webhook that was sent to the one can be replayed, once, at the other; give each a secret of its own, or let them share a scope",
					zap.Strings("scopes", []string{other.Scope, e.Scope}))
			}
			continue
		}
		if option := e.differsFrom(other); option != "" {
			return fmt.Errorf("scope %q is shared by replicate_webhook handlers number %d and %d of the configuration, which differ in %s: make them equal, or give each a scope of its own",
				e.Scope, i+1, len(a.edges)+1, option)
		}
	}
	a.edges = append(a.edges, e)
	return nil
}

// differsFrom returns the name of the first option in which two handlers of one
// scope differ and must not, "" if there is none.
func (e *Edge) differsFrom(o *Edge) string {
	switch {
	case !sameSecrets(e, o):
		return "secret"
	case e.Payload != o.Payload:
		return "payload"
	case e.Scheme != o.Scheme:
		return "scheme"
	case e.Tolerance != o.Tolerance:
		return "tolerance"
	case e.Dedup != o.Dedup:
		return "dedup"
	case e.DedupKey != o.DedupKey:
		return "dedup_key"
	case !slices.Equal(e.Events, o.Events):
		return "events"
	case e.inboxForm != o.inboxForm:
		return "inbox"
	}
	return ""
}

func (e *Edge) sharesSecret(o *Edge) bool {
	others := o.secrets.Values()
	return slices.ContainsFunc(e.secrets.Values(), func(s signature.Secret) bool { return slices.ContainsFunc(others, s.Equal) })
}

func sameSecrets(e, o *Edge) bool {
	if e.secrets == nil {
		// Before provisioning there are only the configured texts.
		return slices.Equal(e.Secret, o.Secret)
	}
	return slices.EqualFunc(e.secrets.Values(), o.secrets.Values(), signature.Secret.Equal)
}

// scopesKey is the key of parsed handlers in a Caddyfile's state, by which those of
// one scope are compared.
const scopesKey = "replicate_webhook.scopes"

// parsedEdge is a handler and its place in the Caddyfile.
type parsedEdge struct {
	edge  *Edge
	place string
}

// compareWithinScope returns an error if the handler differs from one of its scope
// that was parsed before.
func compareWithinScope(h httpcaddyfile.Helper, e *Edge) error {
	seen, _ := h.State[scopesKey].([]parsedEdge)
	for _, other := range seen {
		if other.edge.Scope != e.Scope {
			continue
		}
		if option := e.differsFrom(other.edge); option != "" {
			return fmt.Errorf("it shares the scope %q with the one at %s but differs in %s: make them equal, or give each a scope of its own",
				e.Scope, other.place, option)
		}
	}
	h.State[scopesKey] = append(seen, parsedEdge{e, fmt.Sprintf("%s:%d", h.File(), h.Line())})
	return nil
}
