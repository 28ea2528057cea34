package replicatewebhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/notice"
)

// Notify is who is told of failures by messages, and of which. A message is a webhook in
// JSON, with a member text that chat tools show. The first of a kind about an endpoint,
// a scope or a reason is sent at once, and further ones are counted and told together at
// the end of each window. Messages are signed for the client "notices", and follow
// retry, timeout, endpoint and egress as webhooks do.
type Notify struct {
	// URL gets the messages. It is a secret where its path is, as those of chat
	// tools are. Required.
	URL string `json:"url,omitempty"`

	// On are the kinds: failed, for deliveries that will not be tried again,
	// endpoint_open and endpoint_closed, for breakers, inbox_failed, for events that
	// their app did not accept in time, and rejected, for requests at the edge.
	// Default: all but rejected.
	On []string `json:"on,omitempty" default:"failed endpoint_open endpoint_closed inbox_failed" choice:"failed endpoint_open endpoint_closed inbox_failed rejected"`

	// Every is the length of a window, at least 1s. Default: 10m.
	Every caddy.Duration `json:"every,omitempty" default:"10m"`
}

// setDefaults checks the options and sets the defaults of those left out.
func (n *Notify) setDefaults() error {
	if n.URL == "" {
		return errors.New("notify: url is missing: name what gets the messages, such as {env.NOTIFY_URL}")
	}
	if err := directive.SetDefaults(n); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	for i, what := range n.On {
		if slices.Contains(n.On[:i], what) {
			return fmt.Errorf("notify: %s is given twice: keep one", what)
		}
	}
	if time.Duration(n.Every) < time.Second {
		return fmt.Errorf("notify: every is %s: the least is 1s", time.Duration(n.Every))
	}
	return nil
}

// checkNotify returns an error for what the text alone shows to be wrong.
func (d *Delivery) checkNotify() error {
	if d.Notify == nil {
		return nil
	}
	n := *d.Notify // the defaults stay out of the JSON
	if err := n.setDefaults(); err != nil {
		return err
	}
	if strings.Contains(n.URL, "{") {
		return nil // a placeholder, known when the configuration is loaded
	}
	guard, err := d.Egress.guard()
	if err != nil {
		return nil // reported as an error of egress
	}
	_, err = notifyURL(guard, n.URL)
	return err
}

// notifyURL returns a URL in its canonical form. The error does not quote it.
func notifyURL(guard *egress.Guard, raw string) (string, error) {
	u, err := guard.CheckURL(raw)
	if bad := (*egress.URLError)(nil); errors.As(err, &bad) {
		return "", fmt.Errorf("notify: its URL %s: it has to be one that egress admits, as those of webhooks are", bad.Problem)
	} else if err != nil {
		return "", err
	}
	return u.String(), nil
}

// provisionNotify prepares the messages to the operator.
func (a *App) provisionNotify(guard *egress.Guard) error {
	if a.Notify == nil {
		return nil
	}
	if err := a.Notify.setDefaults(); err != nil {
		return err
	}
	url := new(atomic.Pointer[string])
	err := a.secrets.Use("notify", "notify of "+appName, a.Notify.URL, func(value string) error {
		u, err := notifyURL(guard, value)
		if err == nil {
			url.Store(&u)
		}
		return err
	})
	if err != nil {
		if !strings.HasPrefix(err.Error(), "notify: ") {
			err = fmt.Errorf("notify: %w", err)
		}
		return err
	}
	a.receiver = &notice.Receiver{
		URL: func() string { return *url.Load() }, What: make(map[notice.Kind]bool),
		Every: time.Duration(a.Notify.Every), Logger: a.logger.Named("notices"),
	}
	for _, what := range a.Notify.On {
		a.receiver.What[notice.Kind(what)] = true
	}
	return nil
}
