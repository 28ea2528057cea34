package store

import (
	"net/url"
	"strings"
)

// EndpointOf returns the endpoint of a URL: its scheme, host and port in lower case,
// always with the port. Deliveries to one endpoint share its limits.
func EndpointOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return strings.ToLower(raw)
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if u.Port() == "" {
		port := "443"
		if scheme == "http" {
			port = "80"
		}
		host = strings.TrimSuffix(host, ":") + ":" + port
	}
	return scheme + "://" + host
}
