package postgres

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

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

	dsn, name string
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
	value, literal, err := secret.Expand(m.DSN)
	if err != nil {
		return fmt.Errorf("dsn: %w", err)
	}
	conf, err := parseDSN(value)
	if err != nil {
		return err
	}
	if literal && conf.ConnConfig.Password != "" {
		ctx.Logger().Warn(secret.Warning("dsn of store postgres"))
	}
	m.dsn, m.name = value, place(conf.ConnConfig)
	return nil
}

// UnmarshalCaddyfile reads
//
//	store postgres <dsn>
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
	if d.NextBlock(d.Nesting()) {
		return d.Errf("unexpected %q: store postgres has no options", d.Val())
	}
	return nil
}

// Resource implements store.Opener. A dsn that differs in anything, such as a
// new password, is another resource: to the database both are nodes.
func (m *Module) Resource() string {
	return fmt.Sprintf("postgres %s %x", m.name, sha256.Sum256([]byte(m.dsn)))
}

// Open implements store.Opener.
func (m *Module) Open() (store.Closer, error) {
	// The store outlives configurations, so it logs as the process does.
	return Open(Options{DSN: m.dsn, Logger: func() *zap.Logger { return caddy.Log().Named("replicate_webhook.store") }})
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
	_ store.Opener          = (*Module)(nil)
)
