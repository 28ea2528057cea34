package caddyrun

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

func init() { caddy.RegisterModule(clocked{}) }

// Clock is the clock of an SQLite store. In a Caddyfile the store is
//
//	store clocked <path>
type Clock struct {
	ahead atomic.Int64
	mu    sync.Mutex
	store *sqlite.Store
}

var clocks sync.Map

// NewClock returns the clock of the store that is, or will be, at a path.
func NewClock(t testing.TB, path string) *Clock {
	v, _ := clocks.LoadOrStore(path, new(Clock))
	t.Cleanup(func() { clocks.Delete(path) })
	return v.(*Clock)
}

// Ahead sets the clock to so long after now, or before it.
func (c *Clock) Ahead(d time.Duration) { c.ahead.Store(int64(d)) }

// Now returns the time of the clock.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// Purge has the store delete what its clock says has expired.
func (c *Clock) Purge(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	s := c.store
	c.mu.Unlock()
	err := errors.New("the store is not open")
	if s != nil {
		err = s.Purge()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// clocked is the module behind Clock.
type clocked struct {
	Path string `json:"path"`
}

// CaddyModule returns the Caddy module information.
func (clocked) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "replicate_webhook.stores.clocked", New: func() caddy.Module { return new(clocked) }}
}

// UnmarshalCaddyfile reads the path.
func (c *clocked) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&c.Path) {
		return d.ArgErr()
	}
	return nil
}

func (c *clocked) Resource() string    { return "clocked " + c.Path }
func (c *clocked) SealKeyFile() string { return filepath.Join(filepath.Dir(c.Path), "seal.key") }

func (c *clocked) Open() (store.Closer, error) {
	v, _ := clocks.LoadOrStore(c.Path, new(Clock))
	clock := v.(*Clock)
	s, err := sqlite.Open(sqlite.Options{Path: c.Path, PurgeEvery: time.Hour, Now: clock.Now})
	clock.mu.Lock()
	defer clock.mu.Unlock()
	clock.store = s
	return s, err
}

// Interface guards.
var (
	_ store.Opener          = (*clocked)(nil)
	_ caddyfile.Unmarshaler = (*clocked)(nil)
)
