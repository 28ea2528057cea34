package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	driver "modernc.org/sqlite"

	"github.com/caddy-replicate/replicate-webhook/store"
)

func init() {
	caddy.RegisterModule(Module{})
}

// Module is the Caddy module replicate_webhook.stores.sqlite: an embedded
// database file that belongs to one process.
type Module struct {
	// Path of the database file. Placeholders are expanded. Default:
	// replicate_webhook/webhook.db under Caddy's data directory.
	Path string `json:"path,omitempty"`

	path string
}

// CaddyModule returns the Caddy module information.
func (Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "replicate_webhook.stores.sqlite",
		New: func() caddy.Module { return new(Module) },
	}
}

// Provision works out which file it is, and refuses what can't be one. It does
// not touch it.
func (m *Module) Provision(caddy.Context) error {
	path := filepath.Join(caddy.AppDataDir(), "replicate_webhook", "webhook.db")
	if m.Path != "" {
		var err error
		if path, err = caddy.NewReplacer().ReplaceOrErr(m.Path, true, true); err != nil {
			if bad := checkName(m.Path); bad != nil { // ${HOME} holds a placeholder
				return fmt.Errorf("store %s %w", m.Path, bad)
			}
			return fmt.Errorf("path: %w", err)
		}
	}
	located, err := locate(path)
	if errors.Is(err, fs.ErrPermission) {
		// Who validates a configuration need not be who runs it.
		located, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("store %s %w", path, err)
	}
	m.path = located
	return nil
}

// UnmarshalCaddyfile reads
//
//	store sqlite [<path>]
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		m.Path = d.Val()
		if m.Path == "" {
			return d.Err("the path of store sqlite is empty: name a file, or leave the path out")
		}
	}
	if d.NextArg() {
		return d.Errf("unexpected %q: store sqlite takes one path", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("unexpected %q: store sqlite has no options", d.Val())
	}
	return nil
}

// Resource implements store.Opener.
func (m *Module) Resource() string { return "sqlite " + m.path }

// SealKeyFile implements store.SealKeyFiler. The file is beside the database, and
// never the database itself: whoever has a copy of that alone can read no
// credential.
func (m *Module) SealKeyFile() string { return filepath.Join(filepath.Dir(m.path), "seal.key") }

// Open implements store.Opener.
func (m *Module) Open() (store.Closer, error) {
	// fdatasync writes all that reading back takes, and spares a journal
	// commit of the file system for the time stamps. The switch is the
	// process's, and every commit stays as durable.
	if _, err := driver.Fdatasync(true); err != nil && !errors.Is(err, driver.ErrFdatasyncUnavailable) {
		return nil, err
	}
	// The store outlives configurations, so it logs as the process does.
	logger := func() *zap.Logger { return caddy.Log().Named("replicate_webhook.store") }
	return Open(Options{Path: m.path, Logger: logger})
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
	_ store.Opener          = (*Module)(nil)
)
