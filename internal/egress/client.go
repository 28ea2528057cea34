package egress

import (
	"net/http"
	"time"
)

// MaxResponseHeader is the most a webhook host may send as response headers,
// in bytes.
const MaxResponseHeader = 64 << 10

// Client returns an HTTP client that applies the guard's policy to every
// request. It checks a request's URL with [Guard.CheckURL] and sends it over
// a [Guard.Transport].
//
// Redirects are not followed: a response of class 3xx is returned as it is, and
// its Location stays a text. There is no cookie jar, and no timeout beside
// those of the transport; requests are bounded by their context.
//
// Each call returns a client with a pool of connections of its own, which
// CloseIdleConnections empties.
func (g *Guard) Client() *http.Client {
	return &http.Client{
		Transport: &checkedTransport{guard: g, base: g.Transport()},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// Transport returns a new HTTP transport that dials with [Guard.DialContext].
// It verifies TLS certificates, speaks HTTP/2 where the host does, ignores
// proxies in the environment, limits response headers to [MaxResponseHeader]
// and does not decompress, so that a small body cannot become a large one.
//
// A transport on its own does not judge the text of URLs, which
// [Guard.Client] does; with AllowHTTP unset it still speaks plain HTTP to an
// allowed port.
func (g *Guard) Transport() *http.Transport {
	return &http.Transport{
		// A proxy would do the resolving and connecting that this package
		// exists to control. Nil is the value that ignores the environment.
		Proxy:                  nil,
		DialContext:            g.DialContext,
		TLSClientConfig:        g.tls.Clone(),
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true, // not the default with a dialer of one's own
		DisableCompression:     true,
		MaxResponseHeaderBytes: MaxResponseHeader,

		// Webhooks go to many hosts, seldom often to one, and pooled
		// connections to strangers are not worth keeping for long.
		MaxIdleConns:        128,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,

		// A pooled HTTP/2 connection whose peer has vanished is noticed
		// before it costs a delivery its whole timeout.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
}

// checkedTransport judges the URL of each request before sending it.
type checkedTransport struct {
	guard *Guard
	base  *http.Transport
}

// RoundTrip implements [http.RoundTripper].
func (t *checkedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := t.guard.CheckURL(r.URL.String()); err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return t.base.RoundTrip(r)
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] reach the
// transport.
func (t *checkedTransport) CloseIdleConnections() { t.base.CloseIdleConnections() }
