package tracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
)

// Upstream is a prediction API. It prints without its token.
type Upstream struct {
	// API is the base URL without a trailing slash, such as
	// https://api.replicate.com/v1. Empty: the API can't be asked.
	API string
	// Token is the operator's api_token, with which polls are made. Empty:
	// they are made with the creating client's own.
	Token string
}

// String gives the API.
func (u Upstream) String() string {
	if u.API == "" {
		return "no API"
	}
	return u.API
}

// Format writes the same for every verb and flag.
func (u Upstream) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// Refused is the API's own refusal, to be passed back to the client.
type Refused struct {
	// Status is 400 to 499.
	Status int
	// Header has Content-Type, Retry-After and WWW-Authenticate, where the
	// API sent them.
	Header http.Header
	// Body is at most 64 KiB.
	Body []byte
}

// Error names the status.
func (r *Refused) Error() string { return fmt.Sprintf("the prediction API answered %d", r.Status) }

// Unanswered says that the API could not be asked, or gave no usable response.
// It is ErrUpstream.
type Unanswered struct {
	// API and Path are what was asked for.
	API, Path string
	// Status is that of the response, 0 where there was none.
	Status int
	// Err is why, nil where the status says it.
	Err error
}

// Error names the API, the path, and the status or what went wrong.
func (u *Unanswered) Error() string {
	text := fmt.Sprintf("%v %s: GET %s", ErrUpstream, u.API, u.Path)
	if u.Status != 0 {
		text += fmt.Sprintf(" (status %d)", u.Status)
	}
	if u.Err != nil {
		text += ": " + u.Err.Error()
	}
	return text
}

// Unwrap gives ErrUpstream and the cause.
func (u *Unanswered) Unwrap() []error { return []error{ErrUpstream, u.Err} }

// Bounds on what is read of an API's answers, in bytes.
const (
	maxRefusal    = 64 << 10
	maxAccount    = 1 << 20
	maxPrediction = 64 << 20
)

// requestTimeout bounds a whole exchange with an API.
const requestTimeout = time.Minute

// upstreamClient is c without redirects: an Authorization goes to the API's
// own origin and nowhere else, and a redirect is not the 200 that is asked for.
func upstreamClient(c *http.Client) *http.Client {
	var own http.Client
	if c != nil {
		own = *c
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil
	return &own
}

// bearer is the Authorization for an API token. One that comes with a scheme
// of its own keeps it.
func bearer(token string) string {
	if token == "" || strings.Contains(token, " ") {
		return token
	}
	return "Bearer " + token
}

// get asks an API with these two headers alone. The answer's body has to be
// closed.
func (t *Tracker) get(ctx context.Context, url, authorization, userAgent string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	// An empty value keeps net/http from sending its own.
	req.Header.Set("User-Agent", userAgent)
	resp, err := t.http.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	resp.Body = &answer{ReadCloser: resp.Body, done: cancel}
	return resp, nil
}

// answer ends its request's time limit when it is closed.
type answer struct {
	io.ReadCloser
	done context.CancelFunc
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.done()
	return err
}

// drop closes an answer after reading a little more of it, so that its
// connection can be used again.
func drop(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}

// ask is get on behalf of a caller: it returns a 200 or an error, *Refused for
// 4xx and *Unanswered for everything else.
func (t *Tracker) ask(ctx context.Context, api, path string, c Caller) (*http.Response, error) {
	resp, err := t.get(ctx, api+path, c.Authorization, c.UserAgent)
	if err != nil {
		return nil, &Unanswered{API: api, Path: path, Err: err}
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp, nil
	case resp.StatusCode < 400 || resp.StatusCode > 499:
		drop(resp)
		return nil, &Unanswered{API: api, Path: path, Status: resp.StatusCode}
	}
	defer drop(resp)
	r := &Refused{Status: resp.StatusCode, Header: make(http.Header)}
	for _, name := range []string{"Content-Type", "Retry-After", "Www-Authenticate"} {
		if v := resp.Header.Values(name); len(v) > 0 {
			r.Header[name] = v
		}
	}
	r.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return nil, &Unanswered{API: api, Path: path, Status: resp.StatusCode, Err: fmt.Errorf("reading its refusal: %w", err)}
	}
	return nil, r
}

var errTooLarge = errors.New("the answer is too large")

// readAll reads an answer of at most max bytes.
func readAll(r io.Reader, max int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(body)) > max {
		err = errTooLarge
	}
	return body, err
}

// Authorise asks the API whether the caller may see the prediction: its answer
// must be exactly 200 with a JSON object of that id. It asks where the
// prediction was created, if it is tracked.
//
// Errors: *Refused, ErrUpstream, ErrNoUpstream, store.ErrUnavailable.
func (t *Tracker) Authorise(ctx context.Context, up Upstream, h http.Header, id string) error {
	resp, path, err := t.askFor(ctx, up, h, id)
	if err != nil {
		return err
	}
	defer drop(resp)
	// The id alone is needed, of a prediction that may be of any size.
	var scan prediction.Scanner
	if _, err := io.Copy(&scan, io.LimitReader(resp.Body, maxPrediction)); err != nil {
		return &Unanswered{API: up.API, Path: path, Status: resp.StatusCode, Err: err}
	}
	if !scan.Complete() || scan.ID() != id {
		return &Unanswered{API: up.API, Path: path, Status: resp.StatusCode, Err: ErrNonsense}
	}
	return nil
}

// ErrNoRoom: the budget has no room for a response.
var ErrNoRoom = errors.New("no room for a response of the prediction API")

// Fetch is Authorise that returns the prediction too. take is asked for room for
// the bytes of the response as they come; nil: there is room.
//
// Errors: those of Authorise, ErrNoRoom.
func (t *Tracker) Fetch(ctx context.Context, up Upstream, h http.Header, id string, take func(bytes int) bool) (*prediction.Snapshot, error) {
	resp, path, err := t.askFor(ctx, up, h, id)
	if err != nil {
		return nil, err
	}
	defer drop(resp)
	body, err := readAll(&metered{r: resp.Body, take: take}, maxPrediction)
	if errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	if err != nil {
		return nil, &Unanswered{API: up.API, Path: path, Status: resp.StatusCode, Err: err}
	}
	s, err := prediction.Parse(body)
	if err != nil || s.ID != id {
		return nil, &Unanswered{API: up.API, Path: path, Status: resp.StatusCode, Err: errors.Join(ErrNonsense, err)}
	}
	return s, nil
}

// metered asks for room for what is read.
type metered struct {
	r    io.Reader
	take func(bytes int) bool
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.take != nil && n > 0 && !m.take(n) {
		return 0, ErrNoRoom
	}
	return n, err
}

// AuthoriseAccount asks the API whether the caller is anyone at all: /account
// must answer exactly 200 with a username. It is asked each time, and Caller knows
// the answer then.
//
// Errors: *Refused, ErrUpstream, ErrNoUpstream.
func (t *Tracker) AuthoriseAccount(ctx context.Context, up Upstream, h http.Header) error {
	if up.API == "" {
		return ErrNoUpstream
	}
	c, err := headersOf(h)
	if err != nil {
		return err
	}
	identity, err := t.account(ctx, up, c)
	if err == nil {
		t.callers.put(callerKey(up.API, c.Authorization), identity, t.now())
	}
	return err
}
