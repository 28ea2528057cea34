package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// Caller is the sender of a request. It prints as its identity alone.
type Caller struct {
	// Identity is the same for all tokens of one account, where the API
	// tells accounts apart: "<api> <type>/<username>", with type and
	// username percent-encoded. Otherwise "<api> sha256:<hex>" of the
	// Authorization. It contains no secret.
	Identity string
	// Authorization and UserAgent are the caller's own headers.
	Authorization string
	UserAgent     string
}

// String returns the identity.
func (c Caller) String() string { return c.Identity }

// Format writes the identity for every verb and flag.
func (c Caller) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.Identity) }

const (
	callerLifetime = 5 * time.Minute
	maxCallers     = 10_000
)

// callerKey names a caller in the cache without keeping its token.
type callerKey [sha256.Size]byte

func newCallerKey(api, authorization string) callerKey {
	return sha256.Sum256([]byte(api + "\n" + authorization))
}

// Identify returns the sender of requests with headers h, which it finds out by
// GET {api}/account with the caller's Authorization and User-Agent. The identity
// is remembered for 5 minutes; refusals and failures are not. Where the API has no
// accounts (404), or is off, the caller is known by the Authorization itself; all
// who send none are one.
//
// Errors: *Refusal, ErrFailed.
func (c *Client) Identify(ctx context.Context, api API, h http.Header) (Caller, error) {
	caller, err := callerOf(h)
	if err != nil {
		return Caller{}, err
	}
	if api.URL == "" {
		caller.Identity = anonymous("off", caller.Authorization)
		return caller, nil
	}
	if caller.Identity, err = c.identity(ctx, api.URL, caller); err != nil {
		return Caller{}, err
	}
	return caller, nil
}

// identity returns the identity of a caller. Callers with the same Authorization
// that come together share one request.
func (c *Client) identity(ctx context.Context, api string, caller Caller) (string, error) {
	key := newCallerKey(api, caller.Authorization)
	if identity, ok := c.callers.Get(key); ok {
		return identity, nil
	}
	// The request must not depend on the first caller that waits for it.
	shared := context.WithoutCancel(ctx)
	result := c.asking.DoChan(string(key[:]), func() (any, error) {
		if identity, ok := c.callers.Get(key); ok {
			return identity, nil // another request has ended since
		}
		identity, err := c.account(shared, api, caller)
		var refused *Refusal
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			identity, err = anonymous(api, caller.Authorization), nil
		}
		if err == nil {
			c.callers.Add(key, identity)
		}
		return identity, err
	})
	select {
	case r := <-result:
		return r.Val.(string), r.Err
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", ErrFailed, ctx.Err())
	}
}

// CheckAccount returns nil if the API knows the sender of headers h: /account must
// respond with exactly 200 and a username. The API is asked each time; Identify
// knows the identity then.
//
// Errors: *Refusal, ErrFailed, ErrNoAPI.
func (c *Client) CheckAccount(ctx context.Context, api API, h http.Header) error {
	if api.URL == "" {
		return ErrNoAPI
	}
	caller, err := callerOf(h)
	if err != nil {
		return err
	}
	identity, err := c.account(ctx, api.URL, caller)
	if err == nil {
		c.callers.Add(newCallerKey(api.URL, caller.Authorization), identity)
	}
	return err
}

// anonymous returns the identity of a caller without an account.
func anonymous(api, authorization string) string {
	sum := sha256.Sum256([]byte(authorization))
	return api + " sha256:" + hex.EncodeToString(sum[:])
}

// callerOf returns the headers of a request that may be sent on to the API.
func callerOf(h http.Header) (Caller, error) {
	// Which of several would count is for the API to say, so that asking
	// with one of them would prove nothing.
	if len(h.Values("Authorization")) > 1 {
		return Caller{}, problem(http.StatusBadRequest, "there is more than one Authorization header")
	}
	return Caller{Authorization: h.Get("Authorization"), UserAgent: h.Get("User-Agent")}, nil
}

var accountFields = ecmajson.NewSelector([]string{"type"}, []string{"username"})

// account asks the API for the identity of a caller.
func (c *Client) account(ctx context.Context, api string, caller Caller) (identity string, err error) {
	const path = "/account"
	resp, err := c.getFor(ctx, caller, api, path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	identity, err = readAccount(resp.Body)
	if err != nil {
		return "", &Error{API: api, Path: path, Status: resp.StatusCode, Err: err}
	}
	return api + " " + identity, nil
}

// readAccount returns the type and the username of an account.
func readAccount(r io.Reader) (string, error) {
	data, err := ReadAll(r, maxAccount)
	if err != nil {
		return "", err
	}
	d, err := ecmajson.Parse(data, ecmajson.Limits{}, accountFields)
	if err != nil {
		return "", fmt.Errorf("reading account: %w", err)
	}
	kind, _ := d.Value(0).Text()
	name, _ := d.Value(1).Text()
	if name == "" {
		return "", errors.New("reading account: it has no username")
	}
	return url.PathEscape(kind) + "/" + url.PathEscape(name), nil
}
