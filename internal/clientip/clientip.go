// Package clientip returns the address of a request's client.
package clientip

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Of returns the address of the client that sent r: the one that the server's
// trusted_proxies report, else the address of the connection, with its port.
func Of(r *http.Request) string {
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != "" {
		return ip
	}
	return r.RemoteAddr
}
