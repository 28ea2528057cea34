package signature

import (
	"net/http"
	"strings"
)

// protected lists the headers of ProtectedHeaders, folded as foldByte folds.
var protected = func() (names []string) {
	for i := range schemes {
		for _, name := range schemes[i].headers {
			names = append(names, strings.ToLower(name))
		}
	}
	return append(names,
		"x-replicate-verified", "x-replicate-event", "x-replicate-prediction-id",
		"x-replicate-event-id", "x-replicate-attempt", "x-replicate-inbox", "x-replicate-replay", "x-replicate-overtaken",
		"content-type", "content-length", "content-encoding")
}()

// ProtectedHeaders returns the names, in canonical form, of the headers whose
// presence and value an application behind the gateway relies on: those that
// carry a signature, those that report a verified one or an attempt of an inbox,
// and those that say how to read the signed body. The slice is the caller's own.
//
// A request that names one of them in its Connection header asks the next
// proxy to drop it (RFC 9110 section 7.6.1), after it has been verified.
func ProtectedHeaders() []string {
	names := make([]string, len(protected))
	for i, name := range protected {
		names[i] = http.CanonicalHeaderKey(name)
	}
	return names
}

// IsProtected reports whether name is one of [ProtectedHeaders] to anything
// that may stand behind the gateway. Case does not count, and neither does the
// choice between '-' and any other of the marks that a header name may hold:
// CGI, WSGI and PHP turn '-', '_' and '.' into the same variable, and some
// servers (lighttpd, old Apache) everything that is no letter or digit, so
// "X_Replicate!Verified" reaches an application under the name of the real
// header.
func IsProtected(name string) bool {
	for _, p := range protected {
		if len(name) == len(p) && foldsTo(name, p) {
			return true
		}
	}
	return false
}

// reservedPrefix begins the names of all headers that this plugin sets, on forwarded
// requests and on deliveries.
const reservedPrefix = "x-replicate-"

// IsReserved reports whether name begins with X-Replicate-, in any spelling of
// [IsProtected].
func IsReserved(name string) bool {
	return len(name) >= len(reservedPrefix) && foldsTo(name[:len(reservedPrefix)], reservedPrefix)
}

// foldsTo reports whether name, folded byte by byte, is want. Both have the
// same length.
func foldsTo(name, want string) bool {
	for i := range len(name) {
		if foldByte(name[i]) != want[i] {
			return false
		}
	}
	return true
}

func foldByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	case strings.IndexByte("!#$%&'*+.^_`|~", c) >= 0: // the marks of a token, RFC 9110 section 5.6.2
		return '-'
	default:
		return c
	}
}

// namedByConnection returns the first protected header that a Connection header
// of the request names, or "". The result is one of a fixed set of names, not
// text of the request.
func namedByConnection(h http.Header) string {
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			// Wider than the grammar's space and tab, for the sake of
			// recipients that trim more.
			token = strings.TrimSpace(token)
			for _, p := range protected {
				if len(token) == len(p) && foldsTo(token, p) {
					return http.CanonicalHeaderKey(p)
				}
			}
		}
	}
	return ""
}
