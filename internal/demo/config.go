package demo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// site holds the values of the configuration.
type site struct {
	dir    string // of all data
	addr   string // Caddy's
	app    string // the app's address
	api    string // the API's address
	secret string // the file with the signing secret
	// inboxSecret is the file with that of the sender to the inbox.
	inboxSecret string
	gone        string // an address where nobody listens
	webhook     string // the path of the edge
	inbox       string // the path of the edge with an inbox
	late        string // the address of the app behind the inbox, which is down at first
}

// caddyfile returns the configuration. It is what a user would write, with
// three things that only a demonstration needs: HTTP, receivers on loopback,
// and a dashboard without a login.
func (s site) caddyfile() string {
	_, app, _ := net.SplitHostPort(s.app)
	_, own, _ := net.SplitHostPort(s.addr)
	_, gone, _ := net.SplitHostPort(s.gone)
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]s
	log {
		output file %[2]s
		level INFO
	}
	replicate_webhook {
		store sqlite %[3]s
		signing shared
		signing_secret %[4]s
		poll 100ms 500ms
		retry {
			max_attempts 3
			initial_delay 1s
		}
		endpoint {
			breaker 4 15s
		}
		egress {
			allow_http
			ports %[5]s %[6]s %[7]s
			allow 127.0.0.1/32
		}
	}
}

http://%[8]s {
	bind 127.0.0.1
	handle %[9]s {
		replicate_webhook {
			secret %[4]s
		}
		reverse_proxy %[10]s
	}
	handle %[12]s {
		replicate_webhook {
			secret %[13]s
			scope inbox
			inbox %[14]s {
				max_delay 1s
			}
		}
	}
	handle /v1/* {
		replicate_predictions {
			api http://%[11]s/v1
		}
		reverse_proxy %[11]s
	}
	handle /_webhooks/* {
		replicate_dashboard {
			prefix /_webhooks
			public
		}
	}
	handle {
		respond 404
	}
}
`, quote(filepath.Join(s.dir, "storage")), quote(s.log()), quote(filepath.Join(s.dir, "webhook.db")),
		quote("{file."+s.secret+"}"), app, own, gone, s.addr, s.webhook, s.app, s.api,
		s.inbox, quote("{file."+s.inboxSecret+"}"), s.late)
}

// log returns the path of Caddy's log.
func (s site) log() string { return filepath.Join(s.dir, "caddy.log") }

// quote writes an argument of the Caddyfile.
func quote(text string) string { return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"` }

// startCaddy starts Caddy in this process at a free port.
func (s *site) startCaddy() error {
	for try := 0; ; try++ {
		s.addr = fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort))
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile()), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			return fmt.Errorf("writing the configuration: %w", err)
		}
		err = load(config)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) && !strings.Contains(err.Error(), "address already in use") || try >= tries {
			return fmt.Errorf("starting caddy: %w", err)
		}
	}
}

// load loads a configuration. What Caddy logs until its own log is open goes
// there, not to the terminal.
func load(config []byte) error {
	_, previous, _ := caddy.BufferedLog()
	defer caddy.UnbufferDefaultLogger(previous) // where the log was not opened
	return caddy.Load(config, true)
}

// Ports are taken from below the range out of which systems choose those of
// outgoing connections.
const firstPort, lastPort, tries = 10000, 30000, 20

// listen serves a handler at a free port of loopback until stop is called.
func listen(h http.Handler) (addr string, stop func(), err error) {
	return listenAt("127.0.0.1:0", h)
}

// listenAt is like listen, at an address.
func listenAt(at string, h http.Handler) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), func() { _ = server.Close() }, nil
}

// unused returns an address that refuses connections.
func unused() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// writeSecrets keeps the secrets in files that the configuration names.
func (s *site) writeSecrets(secret, inboxSecret string) error {
	s.secret, s.inboxSecret = filepath.Join(s.dir, "secret"), filepath.Join(s.dir, "inbox-secret")
	return errors.Join(os.WriteFile(s.secret, []byte(secret), 0o600), os.WriteFile(s.inboxSecret, []byte(inboxSecret), 0o600))
}
