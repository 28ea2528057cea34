package postgres

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func init() {
	caddy.RegisterModule(Module{})
}

// Module is the Caddy module replicate_webhook.stores.postgres: a PostgreSQL
// database that several nodes share.
type Module struct {
	// DSN names the database: a URL such as
	// postgres://user:password@host:5432/database, or key=value pairs, as
	// libpq reads them. Its tables are in the schema that search_path names
	// first. Placeholders are expanded. It is a secret: give it as
	// {env.NAME} or {file./path}. Required.
	DSN string `json:"dsn,omitempty"`

	// ListenDSN names the same database past a pooler, where nodes hear of
	// each other. It is a secret like DSN. Default: DSN; where that leads to
	// a pooler, nodes look for each other's work every second or two.
	ListenDSN string `json:"listen_dsn,omitempty"`

	// MaxConns is how many connections this node takes at most: one for its
	// heartbeats, one that listens, the others for transactions. At least 3.
	// Default: 8.
	MaxConns int `json:"max_conns,omitempty"`

	dsn, listenDSN, name string
}

// CaddyModule returns the Caddy module information.
func (Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "replicate_webhook.stores.postgres",
		New: func() caddy.Module { return new(Module) },
	}
}

// Provision reads the dsn. It connects to nothing.
func (m *Module) Provision(ctx caddy.Context) error {
	if m.DSN == "" {
		return errors.New("dsn is missing: name the database, such as {env.DATABASE_URL}")
	}
	if m.MaxConns == 0 {
		m.MaxConns = DefaultMaxConns
	}
	if m.MaxConns < MinMaxConns {
		return fmt.Errorf("max_conns is %d: a node needs at least %d", m.MaxConns, MinMaxConns)
	}
	var err error
	if m.dsn, m.name, err = m.expand(ctx, "dsn", m.DSN); err != nil || m.ListenDSN == "" {
		return err
	}
	m.listenDSN, _, err = m.expand(ctx, "listen_dsn", m.ListenDSN)
	return err
}

// expand reads a dsn that may hold placeholders. Errors repeat nothing of it.
func (m *Module) expand(ctx caddy.Context, option, configured string) (dsn, name string, err error) {
	dsn, literal, err := secret.Expand(configured)
	if err != nil {
		if !placeholder.MatchString(configured) {
			err = errEncode // its braces are of a password, perhaps
		}
		return "", "", fmt.Errorf("%s: %w", option, err)
	}
	conf, err := parseDSN(dsn)
	if err != nil {
		if option != "dsn" {
			err = fmt.Errorf("%s: %w", option, err)
		}
		return "", "", err
	}
	if literal && conf.Password != "" {
		ctx.Logger().Warn(secret.Warning(option + " of store postgres"))
	}
	return dsn, place(conf), nil
}

// placeholder matches a dsn that is one placeholder.
var placeholder = regexp.MustCompile(`^\{(env\.[A-Za-z0-9_]+|file\.[^{}]+)\}$`)

// UnmarshalCaddyfile reads
//
//	store postgres <dsn> {
//		listen_dsn <dsn>
//		max_conns  <n>
//	}
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if !d.NextArg() || d.Val() == "" {
		return d.Err("store postgres needs a dsn, such as {env.DATABASE_URL}")
	}
	m.DSN = d.Val()
	if d.NextArg() {
		// Not quoted: it may be the rest of a dsn.
		return d.Err("store postgres takes one dsn: put quotes around one with spaces")
	}
	o := directive.Options(d)
	for o.Next() {
		switch o.Name() {
		case "listen_dsn":
			o.Text(&m.ListenDSN, "a dsn, such as {env.DATABASE_DIRECT_URL}")
			if o.Remaining() > 0 {
				o.Failf("listen_dsn takes one dsn: put quotes around one with spaces")
			}
		case "max_conns":
			o.Count(&m.MaxConns, MinMaxConns)
		default:
			// Not quoted: it may be the rest of a dsn.
			o.Failf("store postgres has no such option: use listen_dsn or max_conns")
		}
	}
	return o.Err()
}

// Resource implements store.Opener. A store that differs in anything, such as a
// new password, is another resource: to the database both are nodes.
func (m *Module) Resource() string {
	return fmt.Sprintf("postgres %s %x", m.name, sha256.Sum256([]byte(m.dsn+"\x00"+m.listenDSN+"\x00"+strconv.Itoa(m.MaxConns))))
}

// Open implements store.Opener.
func (m *Module) Open() (store.Closer, error) {
	// The store outlives configurations, so it logs as the process does.
	return Open(Options{
		DSN: m.dsn, ListenDSN: m.listenDSN, MaxConns: m.MaxConns,
		Logger: func() *zap.Logger { return caddy.Log().Named("replicate_webhook.store") },
	})
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
	_ store.Opener          = (*Module)(nil)
)
