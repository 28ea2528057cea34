package signature

import (
	"net/http"
	"slices"
)

// svixHeaders are the names that Svix's service gives the headers of Standard
// Webhooks, unless its customer has it use the standard ones.
var svixHeaders = [...]struct{ folded, svix, standard string }{
	{"svix-id", "Svix-Id", HeaderID},
	{"svix-timestamp", "Svix-Timestamp", HeaderTimestamp},
	{"svix-signature", "Svix-Signature", HeaderSignature},
}

// AdoptSvix gives the headers of Standard Webhooks the values of Svix-Id,
// Svix-Timestamp and Svix-Signature where none of them is present. Otherwise it
// removes those of Svix that differ, and other spellings of them, so that an app
// can't read other values than were verified.
func AdoptSvix(h http.Header) {
	for name := range h {
		if IsSvix(name) && !slices.ContainsFunc(svixHeaders[:], func(s struct{ folded, svix, standard string }) bool { return s.svix == name }) {
			delete(h, name)
		}
	}
	if len(h[HeaderID])+len(h[HeaderTimestamp])+len(h[HeaderSignature]) == 0 {
		for _, s := range svixHeaders {
			if values, ok := h[s.svix]; ok {
				h[s.standard] = slices.Clone(values)
			}
		}
		return
	}
	for _, s := range svixHeaders {
		if !slices.Equal(h[s.svix], h[s.standard]) {
			delete(h, s.svix)
		}
	}
}

// UpdateSvix gives those of Svix-Id, Svix-Timestamp and Svix-Signature that are
// present the values of the standard headers, which have changed.
func UpdateSvix(h http.Header) {
	for _, s := range svixHeaders {
		if _, ok := h[s.svix]; ok {
			h[s.svix] = slices.Clone(h[s.standard])
		}
	}
}

// IsSvix reports whether name is one of Svix's three headers, in any spelling of
// [IsProtected].
func IsSvix(name string) bool {
	for _, s := range svixHeaders {
		if len(name) == len(s.folded) && foldsTo(name, s.folded) {
			return true
		}
	}
	return false
}
