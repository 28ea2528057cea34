package dashboard

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTokenCookie: over TLS the cookie has the name that keeps other hosts of
// the domain and plain HTTP from setting it, and one of the other name does not
// count. No script and no other site gets it.
func TestTokenCookie(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := httptest.NewRequest(http.MethodGet, "/_webhooks/", nil)
		name, other := tokenCookie, "__Host-"+tokenCookie
		if secure {
			r.TLS = new(tls.ConnectionState)
			name, other = other, name
		}
		w := httptest.NewRecorder()
		given := token(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 {
			t.Fatalf("TLS %v: %d cookies", secure, len(cookies))
		}
		c := cookies[0]
		if c.Name != name || c.Secure != secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("TLS %v: the cookie is %+v", secure, c)
		}
		value := base64.RawURLEncoding.EncodeToString(given)
		for cookie, counts := range map[string]bool{name: true, other: false} {
			post := httptest.NewRequest(http.MethodPost, "/_webhooks/endpoints/reset", strings.NewReader(tokenField+"="+masked(given)))
			post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			post.TLS = r.TLS
			post.AddCookie(&http.Cookie{Name: cookie, Value: value})
			if got := hasToken(post); got != counts {
				t.Errorf("TLS %v, cookie %s: the form's token counts: %v, want %v", secure, cookie, got, counts)
			}
		}
	}
}

// TestUserIsOnePlaceholder: a text that is never empty would let everybody in.
func TestUserIsOnePlaceholder(t *testing.T) {
	for user, want := range map[string]bool{
		DefaultUser: true, "{http.request.header.Remote-User}": true,
		"operator": false, "{http.auth.user.id}x": false, "x{http.auth.user.id}": false, "": false,
		"{http.auth.user.id}{http.request.host}": false, "{http.auth.user.id}-{http.request.host}": false,
	} {
		if err := checkUser(user); (err == nil) != want {
			t.Errorf("user %q: %v, want it to be taken: %v", user, err, want)
		}
	}
}
