package tracker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Caller is who made a request. It prints as its identity alone.
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

// String gives the identity.
func (c Caller) String() string { return c.Identity }

// Format writes the same for every verb and flag.
func (c Caller) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.Identity) }

// Caller finds out who sends requests with headers h, by GET {api}/account with
// nothing but the caller's Authorization and User-Agent. The answer is
// remembered for 5 minutes. Where the API has no accounts (404), or is off, the
// caller is known by the Authorization itself; all who send none are one.
//
// Errors: *Refused, ErrUpstream.
func (t *Tracker) Caller(ctx context.Context, up Upstream, h http.Header) (Caller, error) {
	c, err := headersOf(h)
	if err != nil {
		return Caller{}, err
	}
	if up.API == "" {
		c.Identity = anonymous("off", c.Authorization)
		return c, nil
	}
	// What asks may outlive this call: it must not share c with it.
	asker := c
	c.Identity, err = t.callers.get(ctx, callerKey(up.API, c.Authorization), t.now, func(ctx context.Context) (string, error) {
		who, err := t.account(ctx, up, asker)
		var refused *Refused
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			return anonymous(up.API, asker.Authorization), nil
		}
		return who, err
	})
	if err != nil {
		return Caller{}, err
	}
	return c, nil
}

func anonymous(api, authorization string) string {
	sum := sha256.Sum256([]byte(authorization))
	return api + " sha256:" + hex.EncodeToString(sum[:])
}

// headersOf takes from a request what may be sent on to the API.
func headersOf(h http.Header) (Caller, error) {
	// Which of several would count is for the API to say, so that asking
	// with one of them would prove nothing.
	if len(h.Values("Authorization")) > 1 {
		return Caller{}, &Refused{
			Status: http.StatusBadRequest,
			Header: http.Header{"Content-Type": {"application/problem+json"}},
			Body:   []byte(`{"title":"Bad request","detail":"there is more than one Authorization header","status":400}`),
		}
	}
	return Caller{Authorization: h.Get("Authorization"), UserAgent: h.Get("User-Agent")}, nil
}

var accountFields = ecmajson.NewSelector([]string{"type"}, []string{"username"})

// account asks the API who the caller is.
func (t *Tracker) account(ctx context.Context, up Upstream, c Caller) (identity string, err error) {
	resp, err := t.ask(ctx, up.API, "/account", c)
	if err != nil {
		return "", err
	}
	defer drop(resp)
	nonsense := func(err error) error {
		return &Unanswered{API: up.API, Path: "/account", Status: resp.StatusCode, Err: err}
	}
	body, err := readAll(resp.Body, maxAccount)
	if err != nil {
		return "", nonsense(err)
	}
	d, err := ecmajson.Parse(body, ecmajson.Limits{}, accountFields)
	if err != nil {
		return "", nonsense(fmt.Errorf("reading account: %w", err))
	}
	kind, _ := d.Value(0).Text()
	name, _ := d.Value(1).Text()
	if name == "" {
		return "", nonsense(errors.New("reading account: it has no username"))
	}
	return up.API + " " + url.PathEscape(kind) + "/" + url.PathEscape(name), nil
}

// askFor asks the API for a prediction on behalf of the sender of headers h, and
// returns the path that it asked for.
func (t *Tracker) askFor(ctx context.Context, up Upstream, h http.Header, id string) (resp *http.Response, path string, err error) {
	if up.API == "" {
		return nil, "", ErrNoUpstream
	}
	c, err := headersOf(h)
	if err != nil {
		return nil, "", err
	}
	if !prediction.ValidID(id) {
		return nil, "", &Refused{
			Status: http.StatusNotFound,
			Header: http.Header{"Content-Type": {"application/problem+json"}},
			Body:   []byte(`{"title":"Not found","detail":"the id is malformed","status":404}`),
		}
	}
	path = Predictions + "/" + id
	switch p, err := t.Lookup(ctx, up.API, id); {
	case err == nil && p.PollPath != "":
		path = p.PollPath
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, "", err
	}
	resp, err = t.ask(ctx, up.API, path, c)
	return resp, path, err
}

// How long and how many callers are remembered.
const (
	callerTTL  = 5 * time.Minute
	maxCallers = 10_000
)

// key names a caller in the cache without keeping its token.
type key [sha256.Size]byte

func callerKey(api, authorization string) key {
	return sha256.Sum256([]byte(api + "\n" + authorization))
}

// callerCache remembers identities, and asks once for callers that come
// together. Refusals are not remembered. The zero value is ready.
type callerCache struct {
	mu    sync.Mutex
	known map[key]*flight
}

// flight is an identity that is known, or being asked for until done closes.
type flight struct {
	done     chan struct{}
	identity string
	err      error
	expires  time.Time // zero until it is known
}

func (c *callerCache) get(ctx context.Context, k key, now func() time.Time, ask func(context.Context) (string, error)) (string, error) {
	c.mu.Lock()
	f := c.known[k]
	if f != nil && !f.expires.IsZero() {
		// An expiry far ahead comes from a clock that was set back.
		if left := f.expires.Sub(now()); left <= 0 || left > callerTTL {
			f = nil
		}
	}
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.add(k, f, now())
		// The answer is for all who wait for it: it must not depend on
		// the first of them staying.
		go c.ask(context.WithoutCancel(ctx), k, f, now, ask)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.identity, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", ErrUpstream, ctx.Err())
	}
}

// put remembers an identity that was asked for otherwise.
func (c *callerCache) put(k key, identity string, now time.Time) {
	f := &flight{done: make(chan struct{}), identity: identity, expires: now.Add(callerTTL)}
	close(f.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(k, f, now)
}

func (c *callerCache) ask(ctx context.Context, k key, f *flight, now func() time.Time, ask func(context.Context) (string, error)) {
	identity, err := ask(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.identity, f.err, f.expires = identity, err, now().Add(callerTTL)
	if err != nil && c.known[k] == f {
		delete(c.known, k)
	}
	close(f.done)
}

// add makes room, a quarter of it at a time, by dropping what has expired and
// then anything: a caller that is dropped is asked for again.
func (c *callerCache) add(k key, f *flight, now time.Time) {
	if c.known == nil {
		c.known = make(map[key]*flight)
	}
	if len(c.known) >= maxCallers {
		for k, f := range c.known {
			if !f.expires.IsZero() && !now.Before(f.expires) {
				delete(c.known, k)
			}
		}
		for k := range c.known {
			if len(c.known) <= maxCallers*3/4 {
				break
			}
			delete(c.known, k)
		}
	}
	c.known[k] = f
}
