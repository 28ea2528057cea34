// Package client speaks to the operators' API of a running Caddy.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/admin"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// Errors on which callers decide, beside those of package operator.
var (
	// ErrUnreachable: nothing responds at the address.
	ErrUnreachable = errors.New("the admin endpoint can't be reached")
	// ErrOther: the server is not this API, or has another version of it.
	ErrOther = errors.New("the admin endpoint has another API")
)

// Error is a response that is not 2xx.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is reports whether the error's status is that of a sentinel error of package
// operator.
func (e *Error) Is(target error) bool {
	switch target {
	case operator.ErrNotFound:
		return e.Status == http.StatusNotFound
	case operator.ErrDisabled, operator.ErrEnded, operator.ErrWaiting, operator.ErrNoBody, operator.ErrOverlaps:
		return e.Status == http.StatusConflict
	case operator.ErrUnavailable:
		return e.Status == http.StatusServiceUnavailable
	}
	return false
}

const (
	// maxAnswer bounds what is read: a payload may have many megabytes.
	maxAnswer = 256 << 20
	// maxError bounds the body of an error response.
	maxError = 64 << 10
	// dialTimeout is for an endpoint that is usually on this host.
	dialTimeout = 5 * time.Second
	// timeout bounds a request. A bulk redelivery takes seconds.
	timeout = time.Minute
)

// Client speaks to one Caddy.
type Client struct {
	address string
	origin  string
	socket  bool
	http    *http.Client
}

// New returns a client for an admin address as Caddy spells it: host:port, or
// unix//path of a socket.
func New(address string) (*Client, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("%q is not a valid admin endpoint: write it like localhost:2019 or unix//run/caddy.sock", address)
	}
	c := &Client{address: address, origin: "http://" + parsed.JoinHostPort(0)}
	if c.socket = parsed.IsUnixNetwork(); c.socket {
		// The permissions of the socket may follow its path.
		parsed.Host, _, _ = strings.Cut(parsed.Host, "|")
		c.origin = "http://127.0.0.1"
	}
	if _, err := url.Parse(c.origin); err != nil {
		return nil, fmt.Errorf("%q is not a valid admin endpoint: %w", address, cause(err))
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	c.http = &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Close ends its connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the status of the process.
func (c *Client) Status(ctx context.Context) (operator.Status, error) {
	return call[operator.Status](ctx, c, http.MethodGet, "status", nil)
}

// Find finds what a text names.
func (c *Client) Find(ctx context.Context, q operator.FindQuery) (operator.Found, error) {
	return call[operator.Found](ctx, c, http.MethodGet, "find", q.Values())
}

// Predictions lists predictions.
func (c *Client) Predictions(ctx context.Context, q operator.PredictionQuery) (operator.PredictionPage, error) {
	return call[operator.PredictionPage](ctx, c, http.MethodGet, "predictions", q.Values())
}

// Prediction finds a prediction. api is needed only where several APIs have one
// of the id.
func (c *Client) Prediction(ctx context.Context, id, api string) (operator.PredictionDetail, error) {
	return call[operator.PredictionDetail](ctx, c, http.MethodGet, "predictions/"+url.PathEscape(id), param("api", api))
}

// Deliveries lists deliveries.
func (c *Client) Deliveries(ctx context.Context, q operator.DeliveryQuery) (operator.DeliveryPage, error) {
	return call[operator.DeliveryPage](ctx, c, http.MethodGet, "deliveries", q.Values())
}

// Delivery finds a delivery.
func (c *Client) Delivery(ctx context.Context, id string) (operator.DeliveryDetail, error) {
	return call[operator.DeliveryDetail](ctx, c, http.MethodGet, "deliveries/"+url.PathEscape(id), nil)
}

// Redeliver creates a new delivery of the event of another one.
func (c *Client) Redeliver(ctx context.Context, id string) (operator.Redelivery, error) {
	return call[operator.Redelivery](ctx, c, http.MethodPost, "deliveries/"+url.PathEscape(id)+"/redeliver", nil)
}

// RedeliverAll redelivers a page of what matches: see Next of the result.
func (c *Client) RedeliverAll(ctx context.Context, q operator.DeliveryQuery, dry bool) (operator.Bulk, error) {
	v := q.Values()
	if dry {
		v.Set("dry_run", "true")
	}
	return call[operator.Bulk](ctx, c, http.MethodPost, "redeliver", v)
}

// Endpoints lists the endpoints.
func (c *Client) Endpoints(ctx context.Context) (operator.Endpoints, error) {
	return call[operator.Endpoints](ctx, c, http.MethodGet, "endpoints", nil)
}

// ResetEndpoint closes an endpoint's breaker.
func (c *Client) ResetEndpoint(ctx context.Context, endpoint string) (operator.Reset, error) {
	return call[operator.Reset](ctx, c, http.MethodPost, "endpoints/reset", param("endpoint", endpoint))
}

// Events lists events.
func (c *Client) Events(ctx context.Context, q operator.EventQuery) (operator.EventPage, error) {
	return call[operator.EventPage](ctx, c, http.MethodGet, "events", q.Values())
}

// Event finds an event.
func (c *Client) Event(ctx context.Context, id string) (operator.EventDetail, error) {
	return call[operator.EventDetail](ctx, c, http.MethodGet, "events/"+url.PathEscape(id), nil)
}

// ForwardRequest returns the request that the app of an event gets.
func (c *Client) ForwardRequest(ctx context.Context, id string) (operator.ForwardRequest, error) {
	return call[operator.ForwardRequest](ctx, c, http.MethodGet, "events/"+url.PathEscape(id)+"/request", nil)
}

// ChangeEvent does something with an event.
func (c *Client) ChangeEvent(ctx context.Context, a operator.EventAction, id string) (operator.EventChange, error) {
	return call[operator.EventChange](ctx, c, http.MethodPost, "events/"+url.PathEscape(id)+"/"+string(a), nil)
}

// ChangeEvents does something with a page of what matches: see Next of the result.
func (c *Client) ChangeEvents(ctx context.Context, a operator.EventAction, q operator.EventQuery, dry bool) (operator.EventBulk, error) {
	v := q.Values()
	if dry {
		v.Set("dry_run", "true")
	}
	return call[operator.EventBulk](ctx, c, http.MethodPost, "events/"+string(a), v)
}

// Inboxes lists the inboxes.
func (c *Client) Inboxes(ctx context.Context) (operator.Inboxes, error) {
	return call[operator.Inboxes](ctx, c, http.MethodGet, "inbox", nil)
}

// SetPaused pauses or resumes the inbox of a scope.
func (c *Client) SetPaused(ctx context.Context, scope string, paused bool) (operator.Paused, error) {
	path := "inbox/resume"
	if paused {
		path = "inbox/pause"
	}
	return call[operator.Paused](ctx, c, http.MethodPost, path, param("scope", scope))
}

// Secret returns the signing secret of a client; client is empty where all
// share one.
func (c *Client) Secret(ctx context.Context, client string) (operator.Secret, error) {
	return call[operator.Secret](ctx, c, http.MethodGet, "secret", param("client", client))
}

// Rotate rotates the signing key of a client, or of all if none is named. overlap is
// for how long the keys before sign, too.
func (c *Client) Rotate(ctx context.Context, client, overlap string) (operator.Rotation, error) {
	v := url.Values{"overlap": {overlap}}
	if client != "" {
		v.Set("client", client)
	}
	return call[operator.Rotation](ctx, c, http.MethodPost, "secret/rotate", v)
}

func param(name, value string) url.Values {
	if value == "" {
		return nil
	}
	return url.Values{name: {value}}
}

// call sends a request and decodes the response.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values) (out T, err error) {
	body, err := c.do(ctx, method, path, query)
	if err != nil {
		return out, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("reading the response of %s: %w", c.address, err)
	}
	return out, nil
}

// do returns the body of a 2xx response.
func (c *Client) do(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	target := c.origin + admin.Base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", c.address, err)
	}
	if !c.socket {
		// Caddy requires an Origin if enforce_origin is set, and none on a socket.
		req.Header.Set("Origin", c.origin)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.address, cause(err))
	}
	err = c.checkVersion(resp)
	if err == nil && resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var refused struct {
		Error string `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(&refused); err != nil || refused.Error == "" {
		refused.Error = "HTTP status " + strconv.Itoa(resp.StatusCode)
	}
	return nil, &Error{Status: resp.StatusCode, Message: refused.Error}
}

// checkVersion returns an error for a response that is not of this API.
func (c *Client) checkVersion(resp *http.Response) error {
	switch version := resp.Header.Get(admin.VersionHeader); {
	case version == strconv.Itoa(operator.APIVersion):
		return nil
	case version != "":
		return fmt.Errorf("%w: the Caddy at %s speaks version %s, this command version %d; use the caddy binary that is running there",
			ErrOther, c.address, version, operator.APIVersion)
	case resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: the admin endpoint at %s refuses this address as its host or origin", ErrOther, c.address)
	}
	return fmt.Errorf("%w: the server at %s is not a Caddy with this plugin", ErrOther, c.address)
}

// cause leaves out of an error what the caller says himself.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
