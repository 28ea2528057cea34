package prediction

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// maxID is how long an id may be for a scanner: it holds 2 KiB, and a character may
// be written with six.
const maxID = 2048 / 6

func TestScannerIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(ecmajson.MemberScanner{}); n > 4<<10 {
		t.Errorf("a Scanner has %d bytes", n)
	}
}

func TestScanner(t *testing.T) {
	for _, c := range []struct {
		name, body          string
		id, status, version string
		complete            bool
	}{
		{"plain", `{"id":"p","status":"starting","version":"v"}`, "p", "starting", "v", true},
		{"line break at the end", "{\"id\":\"p\"}\n", "p", "", "", true},
		{"inside others", `{"input":{"id":"x","status":"x"},"output":["id",{"id":"y"}],"id":"p"}`, "p", "", "", true},
		{"after a long output", `{"output":"` + strings.Repeat(`a\"}{[`, 1<<18) + `","id":"p","status":"processing"}`, "p", "processing", "", true},
		{"escaped", `{"\u0069d":"\u0070","stat\u0075s":"a\nb"}`, "p", "a\nb", "", true},
		{"repeated", `{"id":"x","id":"p","status":"x","status":null}`, "p", "", "", true},
		{"other types", `{"id":7,"status":{"id":"x"},"version":[]}`, "", "", "", true},
		{"too long", `{"id":"` + strings.Repeat("x", 5000) + `","status":"s"}`, "", "s", "", true},
		{"a long key", `{"` + strings.Repeat("x", 5000) + `":"y","id":"p"}`, "p", "", "", true},
		{"scalars", `{"a":1.5e3,"b":true , "c":null,"id":"p"}`, "p", "", "", true},
		{"cut short", `{"id":"p","output":"abc`, "p", "", "", false},
		{"an id cut short", `{"id":"p`, "", "", "", false},
		{"empty", `{}`, "", "", "", true},
		{"no object", `["id","p"]`, "", "", "", false},
		{"nothing", ``, "", "", "", false},
		{"markup", `<html>{"id":"p"}`, "", "", "", false},
		{"more after it", `{"id":"p"}{`, "p", "", "", false},
		{"comma at the end", `{"id":"p",}`, "p", "", "", false},
		{"no colon", `{"id" "p"}`, "", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1 << 30, 1, 7, 0} {
				s := NewScanner()
				for rest := c.body; rest != ""; {
					n := size
					if n == 0 {
						n = 1 + rand.IntN(4096)
					}
					n = min(n, len(rest))
					if m, err := s.Write([]byte(rest[:n])); m != n || err != nil {
						t.Fatal(m, err)
					}
					rest = rest[n:]
				}
				if s.ID() != c.id || s.Status() != c.status || s.Version() != c.version || s.Complete() != c.complete {
					t.Errorf("pieces of %d: %q %q %q %v", size, s.ID(), s.Status(), s.Version(), s.Complete())
				}
			}
		})
	}
}

func BenchmarkScanner(b *testing.B) {
	body := []byte(`{"id":"p","output":["` + strings.Repeat("iVBORw0KGgo/", 1<<16) + `"],"input":{` + strings.Repeat(`"k":[1,2,3],`, 1<<12) + `"z":0}}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		s := NewScanner()
		_, _ = s.Write(body)
	}
}

// FuzzScanner holds that reading an answer while it streams by gives what reading
// it as a whole does, wherever it is divided.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{
		`{"id":"p","status":"starting","version":"v"}`,
		`{"\u0069d":"\u0070","output":"a\"}{[","status":"x"}` + "\n",
		`{"id":"x","id":7,"input":{"id":["y"]}}`, `{"a":1.5e3,"b":true , "id":"p" }`, `[]`, `{"id":"p"}{`, `{"id":"\ud800"}`,
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, at uint16) {
		whole, parts := NewScanner(), NewScanner()
		_, _ = whole.Write(body)
		cut := min(int(at), len(body))
		_, _ = parts.Write(body[:cut])
		for i := cut; i < len(body); i++ {
			_, _ = parts.Write(body[i : i+1])
		}
		if whole.ID() != parts.ID() || whole.Status() != parts.Status() || whole.Version() != parts.Version() || whole.Complete() != parts.Complete() {
			t.Fatalf("%q: in parts it is read as %q, %q, %q", body, parts.ID(), parts.Status(), parts.Version())
		}
		s, err := Parse(body)
		if err != nil {
			return
		}
		if !whole.Complete() {
			t.Fatalf("%q is a prediction and not complete", body)
		}
		for _, v := range [][2]string{{whole.ID(), s.ID}, {whole.Status(), s.Status}, {whole.Version(), s.Version}} {
			// What is too long for a scanner is empty to it.
			if v[0] != v[1] && (v[0] != "" || len(v[1]) < maxID) {
				t.Fatalf("%q: scanned %q, parsed %q", body, v[0], v[1])
			}
		}
	})
}
