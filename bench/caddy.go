package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// secretEnv is the variable in which children find the signing secret.
const secretEnv = "WEBHOOK_SECRET"

// dsnEnv is where those with a PostgreSQL store find it.
const dsnEnv = "DATABASE_URL"

// caddy is one Caddy process with a configuration, a data directory and, where a
// site has the plugin, a store of its own.
type caddy struct {
	*process
	name   string
	binary string
	dir    string
	secret string
	dsn    string
	admin  string
	sites  map[string]string // address by site name
}

// caddyConfig is what a Caddy is to serve.
type caddyConfig struct {
	name    string
	store   string            // path of the SQLite store; empty for the default place
	dsn     string            // of the PostgreSQL store in its place
	options string            // further global options of the plugin
	path    string            // of the route; empty for hookPath
	sites   map[string]string // directives of the route, by site name
}

// The routes that are compared.
func proxyRoute(app, options string) string { return "reverse_proxy " + app + options }

func edgeRoute(app, options string) string {
	return "replicate_webhook {\n\t\t\tsecret {env." + secretEnv + "}\n\t\t}\n\t\t" + proxyRoute(app, options)
}

// startCaddy starts a Caddy on free loopback ports and waits until it listens.
func (l *lab) startCaddy(ctx context.Context, cfg caddyConfig) (*caddy, error) {
	c := &caddy{name: cfg.name, binary: l.binary, secret: l.signer.secret, dsn: cfg.dsn, sites: make(map[string]string)}
	c.dir = filepath.Join(l.dir, "caddy-"+cfg.name)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing %s: %w", cfg.name, err)
	}
	ports, err := freePorts(1 + len(cfg.sites))
	if err != nil {
		return nil, fmt.Errorf("preparing %s: %w", cfg.name, err)
	}
	c.admin = ports[0]
	if cfg.store == "" {
		cfg.store = filepath.Join(c.dir, "webhook.db")
	}
	store := "store sqlite " + strconv.Quote(cfg.store)
	if cfg.dsn != "" {
		store = "store postgres {env." + dsnEnv + "}\n\t\tseal_key {env." + secretEnv + "}"
	}
	if cfg.path == "" {
		cfg.path = hookPath
	}
	var text strings.Builder
	fmt.Fprintf(&text, "{\n\tadmin %s\n\tdefault_bind 127.0.0.1\n\tauto_https off\n\tpersist_config off\n\tlog {\n\t\tlevel WARN\n\t}\n"+
		"\treplicate_webhook {\n\t\t%s\n%s\t}\n}\n", c.admin, store, cfg.options)
	for name, route := range cfg.sites {
		addr := ports[1+len(c.sites)]
		c.sites[name] = addr
		fmt.Fprintf(&text, "\nhttp://%s {\n\thandle %s {\n\t\t%s\n\t}\n\thandle {\n\t\trespond 404\n\t}\n}\n", addr, cfg.path, route)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "Caddyfile"), []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("preparing %s: %w", cfg.name, err)
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	l.onClose(c.shutDown)
	return c, nil
}

// start runs the process and waits until every site listens.
func (c *caddy) start(ctx context.Context) error {
	if err := c.spawn(); err != nil {
		return err
	}
	for _, addr := range c.sites {
		err := c.poll(ctx, func() error {
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
		if err != nil {
			c.stop()
			return err
		}
	}
	return nil
}

func (c *caddy) spawn() error {
	cmd := exec.Command(c.binary, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir = c.dir
	// Nothing of the user's own Caddy is read or written.
	cmd.Env = []string{
		"HOME=" + c.dir, "XDG_DATA_HOME=" + filepath.Join(c.dir, "data"), "XDG_CONFIG_HOME=" + filepath.Join(c.dir, "config"),
		secretEnv + "=" + c.secret, dsnEnv + "=" + c.dsn,
	}
	var err error
	c.process, err = startProcess("caddy "+c.name, cmd)
	return err
}

// shutDown stops the process of the moment, which restart replaces.
func (c *caddy) shutDown() { c.stop() }

// restart stops the process, starts it again, and gives the time from then to
// the first request that gets the expected response.
func (c *caddy) restart(ctx context.Context, addr string, request func() []byte, expect expectation) (time.Duration, error) {
	c.stop()
	start := time.Now()
	if err := c.spawn(); err != nil {
		return 0, err
	}
	err := c.poll(ctx, func() error {
		cl := newClient(addr, time.Now().Add(5*time.Second))
		defer cl.close()
		if expect.mark != "" {
			cl.mark = []byte(expect.mark)
		}
		a, err := cl.do(request())
		if err != nil {
			return err
		}
		return expect.check(a)
	})
	return time.Since(start), err
}

// poll repeats try until it succeeds, the process ends or time is up.
func (c *caddy) poll(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if ended := c.alive(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return errors.Join(c.failure("does not respond"), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// errNoMetric: counters with labels are not there before the first count.
var errNoMetric = errors.New("there is no")

// metric reads one value of the process's metrics.
func (c *caddy) metric(ctx context.Context, name string) (float64, error) {
	body, err := get(ctx, "http://"+c.admin+"/metrics")
	if err != nil {
		return 0, fmt.Errorf("reading metrics of caddy %s: %w", c.name, err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("reading metrics of caddy %s: %w %s", c.name, errNoMetric, name)
}

// saveProfile writes a CPU profile of the given time to the file.
func (c *caddy) saveProfile(ctx context.Context, d time.Duration, file string) error {
	query := url.Values{"seconds": {strconv.Itoa(max(1, int(d.Seconds())))}}
	body, err := get(ctx, "http://"+c.admin+"/debug/pprof/profile?"+query.Encode())
	if err != nil {
		return fmt.Errorf("profiling caddy %s: %w", c.name, err)
	}
	return os.WriteFile(file, body, 0o644)
}

// freePorts finds loopback addresses that nothing listens on. All are held until
// all are found, so that no two are the same.
func freePorts(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer ln.Close()
		addrs[i] = ln.Addr().String()
	}
	return addrs, nil
}
