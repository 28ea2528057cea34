package dashboard

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
)

// policy lets the page load what this handler serves and nothing else, run no
// script that stands in the page, and be framed by nobody. Trusted types keep
// scripts from making markup of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// protect sets the headers that every response has.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Robots-Tag", "noindex")
}

// crossOrigin refuses changes that another site asks the browser for.
var crossOrigin http.CrossOriginProtection

// The token ties a form to the browser that it was shown to: it is in a cookie,
// which other sites can't read, and in the form. It needs no memory of the
// server, so that any node accepts the token of another.
const (
	tokenCookie = "replicate_dashboard"
	tokenField  = "token"
	tokenBytes  = 24
)

// cookieName returns the name of the cookie. Over TLS it has the prefix that
// keeps other hosts of the domain and plain HTTP from setting it.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-" + tokenCookie
	}
	return tokenCookie
}

// token returns the browser's token. It sets one if the browser has none.
func token(w http.ResponseWriter, r *http.Request) []byte {
	if t := cookieToken(r); t != nil {
		return t
	}
	t := make([]byte, tokenBytes)
	_, _ = rand.Read(t) // never fails
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: base64.RawURLEncoding.EncodeToString(t), Path: "/",
		Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	return t
}

// cookieToken returns the token of the request's cookie, nil without one.
func cookieToken(r *http.Request) []byte {
	cookies := r.CookiesNamed(cookieName(r))
	if len(cookies) != 1 {
		return nil
	}
	t, err := base64.RawURLEncoding.DecodeString(cookies[0].Value)
	if err != nil || len(t) != tokenBytes {
		return nil
	}
	return t
}

// masked returns a token as a form has it. The bytes differ each time, so that
// the size of a compressed page does not reveal it.
func masked(token []byte) string {
	b := make([]byte, 2*tokenBytes)
	_, _ = rand.Read(b[:tokenBytes])
	subtle.XORBytes(b[tokenBytes:], b[:tokenBytes], token)
	return base64.RawURLEncoding.EncodeToString(b)
}

// hasToken reports whether a posted form has the token of the browser's cookie.
func hasToken(r *http.Request) bool {
	want := cookieToken(r)
	b, err := base64.RawURLEncoding.DecodeString(r.PostFormValue(tokenField))
	if want == nil || err != nil || len(b) != 2*tokenBytes {
		return false
	}
	got := make([]byte, tokenBytes)
	subtle.XORBytes(got, b[:tokenBytes], b[tokenBytes:])
	return subtle.ConstantTimeCompare(got, want) == 1
}
