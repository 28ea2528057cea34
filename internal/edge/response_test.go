package edge

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCommitBeforeAnythingLeaves runs handlers to their end and lists, in
// order, what became of their responses: "commit", "whole" where the commit was
// told that the response is complete, "header <status>", "body <bytes>", "flush".
func TestCommitBeforeAnythingLeaves(t *testing.T) {
	long := strings.Repeat("x", maxHeld+1)
	// declared responds with a length and the parts of a body.
	declared := func(length string, status int, parts ...string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Length", length)
			w.WriteHeader(status)
			for _, part := range parts {
				_, _ = io.WriteString(w, part)
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		respond func(http.ResponseWriter) bool
		want    []string
	}{
		"small": {declared("4", 201, "ab", "cd"), []string{"commit whole", "header 201", "body 4"}},
		"small, copied": {func(w http.ResponseWriter) bool {
			declared("4", 200)(w)
			_, _ = io.Copy(w, strings.NewReader("abcd"))
			return true
		}, []string{"commit whole", "header 200", "body 4"}},
		"empty": {declared("0", 204), []string{"commit whole", "header 204"}},
		"second header": {func(w http.ResponseWriter) bool {
			declared("1", 200)(w)
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "a")
			return true
		}, []string{"commit whole", "header 200", "body 1"}},
		"small, flushed": {func(w http.ResponseWriter) bool {
			declared("4", 200, "ab")(w)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "cd")
			return true
		}, []string{"commit", "header 200", "body 2", "flush", "body 2"}},
		"longer than it says": {declared("4", 200, "abcd", "\n"), []string{"commit", "header 200", "body 4", "body 1"}},
		"long":                {declared(strconv.Itoa(len(long)), 200, long), []string{"commit", "header 200", "body 2049"}},
		"of unknown length": {func(w http.ResponseWriter) bool {
			w.WriteHeader(200)
			_, _ = io.WriteString(w, "ab")
			return true
		}, []string{"commit", "header 200", "body 2"}},
		"without a header": {func(w http.ResponseWriter) bool {
			_, _ = io.WriteString(w, "ab")
			return true
		}, []string{"commit", "body 2"}},
		"nothing":            {func(http.ResponseWriter) bool { return true }, nil},
		"nothing, but error": {func(http.ResponseWriter) bool { return false }, nil},
		"small, then error": {func(w http.ResponseWriter) bool {
			declared("4", 200)(w)
			return false
		}, []string{"commit whole", "header 200"}},
		"refusal": {declared("2", 500, "no"), []string{"header 500", "body 2"}},
		"early hints": {func(w http.ResponseWriter) bool {
			w.WriteHeader(103)
			return declared("2", 200, "ok")(w)
		}, []string{"header 103", "commit whole", "header 200", "body 2"}},
		"length that is none": {declared("-1", 200), []string{"commit", "header 200"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out record
			x := newResponse(&out, func(whole bool) error {
				if whole {
					out.add("commit whole")
				} else {
					out.add("commit")
				}
				return nil
			})
			x.finish(c.respond(x))
			if !slices.Equal(out.did, c.want) {
				t.Errorf("got %q, want %q", out.did, c.want)
			}
			if commits := slices.ContainsFunc(c.want, func(s string) bool { return strings.HasPrefix(s, "commit") }); x.accepted != commits {
				t.Errorf("accepted: %v", x.accepted)
			}
		})

		t.Run(name+", not committed", func(t *testing.T) {
			out := record{}
			out.Header().Set("Date", "before")
			x := newResponse(&out, func(bool) error { return errors.New("disk full") })
			x.finish(c.respond(x))
			if len(c.want) == 0 || c.want[0] == "header 500" {
				return // nothing is committed
			}
			if x.accepted || x.err == nil {
				t.Errorf("accepted: %v, error: %v", x.accepted, x.err)
			}
			if left := slices.DeleteFunc(out.did, func(s string) bool { return s == "header 103" }); len(left) > 0 {
				t.Errorf("%q left", left)
			}
			if h := out.Header(); len(h) != 1 || h.Get("Date") != "before" {
				t.Errorf("the header that the 503 gets is %v", h)
			}
		})
	}
}

// record is a ResponseWriter that lists what is asked of it.
type record struct {
	httptest.ResponseRecorder
	did []string
}

func (r *record) add(s string) { r.did = append(r.did, s) }

func (r *record) WriteHeader(status int) { r.add("header " + strconv.Itoa(status)) }

func (r *record) Write(p []byte) (int, error) {
	r.add("body " + strconv.Itoa(len(p)))
	return len(p), nil
}

func (r *record) Flush() { r.add("flush") }

// TestOnlyAFinalStatusIsAResponse: what ends without one, or switches protocols, is
// refused; nothing of it leaves, also not what is written afterwards, and nobody
// gets the connection.
func TestOnlyAFinalStatusIsAResponse(t *testing.T) {
	for name, handle := range map[string]func(http.ResponseWriter){
		"nothing":               func(http.ResponseWriter) {},
		"a header":              func(w http.ResponseWriter) { w.Header().Set("X-App", "1") },
		"a status that is none": func(w http.ResponseWriter) { w.WriteHeader(0) },
		"one of four digits":    func(w http.ResponseWriter) { w.WriteHeader(1000) },
		"early hints":           func(w http.ResponseWriter) { w.WriteHeader(103) },
		"101":                   func(w http.ResponseWriter) { w.Header().Set("Upgrade", "x"); w.WriteHeader(101) },
		"101 and more": func(w http.ResponseWriter) {
			w.WriteHeader(101)
			w.WriteHeader(200)
			_, _ = io.WriteString(w, "a tunnel")
			_, _ = io.Copy(w, strings.NewReader("a tunnel"))
			_ = http.NewResponseController(w).Flush()
		},
		"hijacked": func(w http.ResponseWriter) {
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("hijacking: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out record
			out.Header().Set("Date", "before")
			x := newResponse(&out, func(bool) error { t.Error("committed"); return nil })
			handle(x)
			x.finish(true)
			if x.accepted || !errors.Is(x.err, errNoStatus) {
				t.Errorf("accepted: %v, error: %v", x.accepted, x.err)
			}
			if left := slices.DeleteFunc(out.did, func(s string) bool { return s == "header 103" }); len(left) > 0 {
				t.Errorf("%q left", left)
			}
			if h := out.Header(); len(h) != 1 || h.Get("Date") != "before" {
				t.Errorf("the header that the 502 gets is %v", h)
			}
		})
	}
}

// committing is a committer that calls a function.
type committing func(whole bool) error

func (c committing) commit(whole bool, _ int, _ []byte) error { return c(whole) }

func newResponse(w http.ResponseWriter, commit committing) *response {
	x := new(response)
	x.init(w, commit)
	return x
}
