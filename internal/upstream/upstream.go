// Package upstream asks prediction APIs: who a caller is, which predictions it may
// see, and how they are.
//
// Requests carry an Authorization and a User-Agent and nothing else. They go to
// the API's own origin alone: redirects are never followed.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-replicate/replicate-webhook/internal/lru"
)

// API is a prediction API. It prints without its token.
type API struct {
	// URL is the base URL without a trailing slash, such as
	// https://api.replicate.com/v1. Empty: the API can't be asked.
	URL string
	// Token is the operator's api_token, with which polls are made. Empty:
	// they are made with the creating client's own.
	Token string
}

// String returns the URL.
func (a API) String() string {
	if a.URL == "" {
		return "no API"
	}
	return a.URL
}

// Format writes the URL for every verb and flag.
func (a API) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

const (
	// requestTimeout bounds a whole exchange with an API.
	requestTimeout = time.Minute
	// maxRefusal and maxAccount are the most that is read of such a response,
	// in bytes.
	maxRefusal = 64 << 10
	maxAccount = 1 << 20
	// MaxPrediction is the largest response with a prediction, in bytes.
	MaxPrediction = 64 << 20
	// maxDiscarded is the number of bytes of an unread response that are read so
	// that its connection can be used again.
	maxDiscarded = 4 << 10
)

// Client asks APIs. It is safe for concurrent use.
type Client struct {
	http *http.Client

	mu     sync.Mutex
	tokens map[string]string // by API

	callers *lru.Cache[callerKey, string] // identities
	asking  singleflight.Group
}

// New returns a client that makes its requests with c, of which it changes a copy:
// redirects are not followed, and no cookies are kept. Every request ends after a
// minute. nil stands for http.DefaultTransport.
func New(c *http.Client) *Client {
	own := new(http.Client)
	if c != nil {
		*own = *c
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil
	return &Client{http: own, tokens: make(map[string]string), callers: lru.New[callerKey, string](maxCallers, callerLifetime)}
}

// Join makes an API and its operator's token known. Polls find the token here: it
// is not kept in the store.
//
// Two different tokens for one API are an error. Renew replaces a token while
// polls run.
func (c *Client) Join(api API) error {
	if api.Token == "" {
		return nil
	}
	if api.URL == "" {
		return errors.New("api_token is set, but api is off")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.tokens[api.URL]; ok && known != api.Token {
		return fmt.Errorf("api %s is configured with two different api_token", api.URL)
	}
	c.tokens[api.URL] = api.Token
	return nil
}

// Renew replaces the token of an API that has joined, because the operator has
// replaced it.
func (c *Client) Renew(api API) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens[api.URL] != "" {
		c.tokens[api.URL] = api.Token
	}
}

// Authorization returns the Authorization of the operator of an API, empty where
// there is none. A token that comes with a scheme of its own keeps it.
func (c *Client) Authorization(api string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	token := c.tokens[api]
	if token == "" || strings.Contains(token, " ") {
		return token
	}
	return "Bearer " + token
}

// Get asks an API with these two headers alone. The body of the response must be
// closed. An error is ErrFailed.
func (c *Client) Get(ctx context.Context, url, authorization, userAgent string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	// An empty value keeps net/http from sending its own.
	req.Header.Set("User-Agent", userAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	resp.Body = &body{ReadCloser: resp.Body, cancel: cancel}
	return resp, nil
}

// body is the body of a response. Close reads a little more of it, so that the
// connection can be used again, and ends the time limit of the request.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	_, _ = io.CopyN(io.Discard, b.ReadCloser, maxDiscarded)
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// getFor is Get on behalf of a caller. It returns a response with status 200 or an
// error: *Refusal for 4xx and *Error for everything else.
func (c *Client) getFor(ctx context.Context, caller Caller, api, path string) (*http.Response, error) {
	resp, err := c.Get(ctx, api+path, caller.Authorization, caller.UserAgent)
	if err != nil {
		return nil, &Error{API: api, Path: path, Err: err}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 || resp.StatusCode > 499 {
		return nil, &Error{API: api, Path: path, Status: resp.StatusCode}
	}
	r := &Refusal{Status: resp.StatusCode, Header: make(http.Header)}
	for _, name := range []string{"Content-Type", "Retry-After", "Www-Authenticate"} {
		if v := resp.Header.Values(name); len(v) > 0 {
			r.Header[name] = v
		}
	}
	r.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return nil, &Error{API: api, Path: path, Status: resp.StatusCode, Err: fmt.Errorf("reading its refusal: %w", err)}
	}
	return nil, r
}

// ReadAll reads the rest of a response of at most max bytes. A longer one is
// ErrTooLarge, and its first max+1 bytes are returned.
func ReadAll(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(data)) > max {
		err = ErrTooLarge
	}
	return data, err
}
