package security_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestForgeries takes genuine webhooks, changes them in one to four ways and
// sends them through Caddy's whole chain. Whatever reaches the app must have
// been signed, byte by byte and under the headers that say so; nothing makes a
// 5xx or a panic. Requests are read as a server reads them, from bytes, but
// without a connection each: that makes a million of them a matter of minutes.
func TestForgeries(t *testing.T) {
	// Without dedup, what a mutation has left valid is passed on each time.
	e := newEdge(t, "dedup off\ntolerance 1h\nmax_body 64KiB")
	e.quiet()
	server := httpServer(t)
	m := newMutator(t)
	seen := judge{genuine: m.genuine}
	e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) { seen.add(r) })
	statuses := make(map[int]int)
	for i := range *forgeries {
		if i%1000 == 0 {
			e.app.Forget()
		}
		raw := m.request()
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || !validHeader(r.Header) {
			statuses[0]++ // refused by net/http, before any handler
			continue
		}
		r.RemoteAddr = "127.0.0.1:1"
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, new(http.Server))))
		statuses[rec.Code]++
		if rec.Code >= 500 {
			t.Fatalf("request %d got %d:\n%q", i, rec.Code, raw)
		}
		if forged := seen.forged(); forged != "" {
			t.Fatalf("request %d was accepted: %s\n%q", i, forged, raw)
		}
	}
	refused := *forgeries - statuses[http.StatusOK]
	t.Logf("%d requests: 0 forged ones accepted, %d still genuine, by status %v", *forgeries, seen.passed, statuses)
	if refused < *forgeries/2 || seen.passed == 0 {
		t.Errorf("%d of %d were refused and %d passed: the mutations don't try what they should", refused, *forgeries, seen.passed)
	}
	if lines := e.Logs.Lines("panic"); len(lines) > 0 {
		t.Errorf("logged: %s", lines[0])
	}
}

// httpServer is the one server of the running configuration.
func httpServer(t testing.TB) *caddyhttp.Server {
	t.Helper()
	mod, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		t.Fatal(err)
	}
	for s := range maps.Values(mod.(*caddyhttp.App).Servers) {
		return s
	}
	t.Fatal("no server runs")
	return nil
}

// validHeader is what net/http's server checks beyond ReadRequest.
func validHeader(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
	}
	return true
}

// judge looks at what reaches the app, without asking our own code.
type judge struct {
	genuine []hook
	passed  int
	problem string
}

func (j *judge) add(r *caddyrun.Request) {
	j.passed++
	if p := j.look(r); p != "" && j.problem == "" {
		j.problem = fmt.Sprintf("%s: %v %q", p, r.Header, r.Got)
	}
}

func (j *judge) forged() string { return j.problem }

func (j *judge) look(r *caddyrun.Request) string {
	i := slices.IndexFunc(j.genuine, func(w hook) bool { return w.body == string(r.Got) })
	if i < 0 {
		return "a body that was not signed"
	}
	w, h := j.genuine[i], r.Header
	var p struct{ Prediction struct{ ID string } }
	if json.Unmarshal([]byte(w.body), &p) != nil || h.Get("X-Replicate-Prediction-Id") != p.Prediction.ID {
		return "the headers name another prediction"
	}
	switch h.Get("X-Replicate-Verified") {
	case "standard":
		for _, name := range []string{"Webhook-Id", "Webhook-Timestamp"} {
			if !slices.Equal(h[name], w.header[name]) {
				return name + " was not signed"
			}
		}
	case "replicate":
		if got := strings.TrimPrefix(h.Get("X-Replicate-Signature"), "sha256="); got != w.header.Get("X-Replicate-Signature") {
			return "the signature is another one"
		}
	default:
		return "it is not marked as verified"
	}
	for name, values := range h {
		if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, "forged") }) {
			return "a forged " + name
		}
	}
	if len(r.Trailer) > 0 {
		return "a trailer"
	}
	return ""
}

// mutator makes requests out of genuine webhooks.
type mutator struct {
	*rand.Rand
	genuine []hook
}

func newMutator(t testing.TB) *mutator {
	m := &mutator{Rand: rand.New(rand.NewPCG(*seed, 0))}
	now := time.Now()
	for i := range 4 {
		id := fmt.Sprintf("pred_%d", i)
		body := payload(id, now)
		m.genuine = append(m.genuine, both(t, whsec, fmt.Sprintf("msg.%d", i), body, now))
	}
	return m
}

// draft is a request in the making.
type draft struct {
	method, target, proto string
	// lines are its headers.
	lines  [][2]string
	body   []byte
	framed bool // a line frames the body already
	tail   string
}

func (d *draft) set(name, value string) {
	d.drop(name)
	d.lines = append(d.lines, [2]string{name, value})
}

func (d *draft) drop(name string) {
	d.lines = slices.DeleteFunc(d.lines, func(l [2]string) bool { return strings.EqualFold(l[0], name) })
}

func (d *draft) get(name string) string {
	for _, l := range d.lines {
		if strings.EqualFold(l[0], name) {
			return l[1]
		}
	}
	return ""
}

func (d *draft) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", d.method, d.target, d.proto)
	for _, l := range d.lines {
		fmt.Fprintf(&b, "%s: %s\r\n", l[0], l[1])
	}
	if !d.framed {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(d.body))
	}
	return b.String() + "\r\n" + string(d.body) + d.tail
}

// request is one to send.
func (m *mutator) request() string {
	w := m.pick()
	switch m.IntN(3) {
	case 0:
		w = w.onlyReplicate()
	case 1:
		w = w.onlyStandard()
	}
	d := &draft{method: "POST", target: route, proto: "HTTP/1.1", body: []byte(w.body)}
	d.set("Host", "127.0.0.1")
	for _, name := range slices.Sorted(maps.Keys(w.header)) {
		d.set(name, w.header[name][0])
	}
	for range 1 + m.IntN(4) {
		mutations[m.IntN(len(mutations))](m, d)
	}
	return d.String()
}

func (m *mutator) pick() hook { return m.genuine[m.IntN(len(m.genuine))] }

func (m *mutator) of(s ...string) string { return s[m.IntN(len(s))] }

var (
	signed  = []string{"X-Replicate-Signature", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}
	vouched = []string{"X-Replicate-Verified", "X-Replicate-Event", "X-Replicate-Prediction-Id"}
)

// mutations are the ways of change. Values that only an attacker sends hold the
// word forged.
var mutations = []func(*mutator, *draft){
	// The body.
	func(m *mutator, d *draft) { flip(m, d) },
	func(m *mutator, d *draft) { flip(m, d) },
	func(m *mutator, d *draft) { d.body = d.body[:m.IntN(len(d.body)+1)] },
	func(m *mutator, d *draft) {
		i := m.IntN(len(d.body) + 1)
		d.body = slices.Insert(slices.Clone(d.body), i, byte(m.IntN(256)))
	},
	func(m *mutator, d *draft) {
		if len(d.body) > 0 {
			i := m.IntN(len(d.body))
			d.body = slices.Delete(slices.Clone(d.body), i, i+1)
		}
	},
	func(m *mutator, d *draft) { d.body = []byte(m.pick().body) },
	func(m *mutator, d *draft) {
		d.body = append(slices.Clone(d.body), m.of(" ", "\n", "\x00", "{}", "]", "\ufeff")...)
	},
	func(m *mutator, d *draft) {
		d.body = append([]byte(m.of(" ", "\n", "\ufeff", "1.", "[", "\xff\xfe")), d.body...)
	},
	func(m *mutator, d *draft) {
		var b bytes.Buffer
		if json.Indent(&b, d.body, "", m.of(" ", "\t")) == nil {
			d.body = b.Bytes()
		}
	},
	func(m *mutator, d *draft) { // a repeated or folded key
		extra := m.of(`"event":"prediction.failed",`, `"Event":"prediction.failed",`, `"\u0065vent":"prediction.failed",`,
			`"prediction":{"id":"forged"},`, `"PREDICTION":{"id":"forged"},`, `"timestamp":"2000-01-01T00:00:00Z",`, `"id":"forged",`, `"__proto__":{"id":"forged"},`)
		d.body = bytes.Replace(d.body, []byte("{"), []byte("{"+extra), 1+m.IntN(2))
	},
	func(m *mutator, d *draft) { // another spelling of what was signed
		pair := [][2]string{{`"event"`, `"\u0065vent"`}, {`"v1"`, `"v\u0031"`}, {`7`, `7.0`}, {`7`, `70e-1`}, {`"seed":7`, `"seed":6,"seed":7`}, {`/`, `\/`}, {`"x"`, `"\u0078"`}}[m.IntN(7)]
		d.body = bytes.Replace(d.body, []byte(pair[0]), []byte(pair[1]), 1)
	},
	func(m *mutator, d *draft) { d.body = bytes.ToUpper(d.body) },
	func(m *mutator, d *draft) { d.body = nil },
	func(m *mutator, d *draft) { d.body = bytes.Repeat([]byte("["), 1+m.IntN(2000)) },
	func(m *mutator, d *draft) { d.body = bytes.Repeat(d.body, 1+m.IntN(300)) },
	// How the body is sent.
	func(m *mutator, d *draft) {
		d.set("Content-Encoding", m.of("gzip", "identity, gzip", "x-gzip", "deflate", "br", "GZIP", "identity"))
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(d.body)
		_ = z.Close()
		d.body = b.Bytes()
	},
	func(m *mutator, d *draft) {
		if d.framed {
			return
		}
		d.framed = true
		d.set("Transfer-Encoding", m.of("chunked", "chunked", "chunked", "gzip, chunked", "identity", "xchunked"))
		name := m.of(append(signed, vouched...)...)
		d.set("Trailer", name)
		d.body = fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n%s: forged\r\n\r\n", len(d.body), d.body, name)
	},
	func(m *mutator, d *draft) {
		d.framed = true
		d.lines = append(d.lines, [2]string{"Content-Length", m.of("0", "1", "10", "+5", "-1", "0x10", "99999999999999999999", "10, 10")})
	},
	func(m *mutator, d *draft) {
		d.set("Content-Type", m.of("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "multipart/form-data; boundary=x", ""))
	},
	// The signatures.
	func(m *mutator, d *draft) { name := m.of(signed...); d.set(name, mangle(m, d.get(name))) },
	func(m *mutator, d *draft) { name := m.of(signed...); d.set(name, mangle(m, d.get(name))) },
	func(m *mutator, d *draft) { name := m.of(signed...); d.set(name, m.pick().header.Get(name)) },
	func(m *mutator, d *draft) { d.drop(m.of(signed...)) },
	func(m *mutator, d *draft) { d.set(m.of(signed...), d.get(m.of(signed...))) },
	func(m *mutator, d *draft) {
		name := m.of(signed...)
		d.lines = append(d.lines, [2]string{m.of(name, strings.ToLower(name), strings.ToUpper(name)), m.of(d.get(name), "forged")})
	},
	func(m *mutator, d *draft) { // the parts of the signed text, divided elsewhere
		id, rest, _ := strings.Cut(d.get("Webhook-Id"), ".")
		d.set("Webhook-Id", id)
		d.body = append([]byte(rest+"."), d.body...)
	},
	// What the edge alone may say, and other names for it.
	func(m *mutator, d *draft) {
		name := m.of(append(signed, vouched...)...)
		name = strings.Join(strings.Split(name, "-"), m.of("-", "_", ".", "!", "~", "^", "'"))
		d.lines = append(d.lines, [2]string{name, "forged"})
	},
	func(m *mutator, d *draft) {
		d.set("Connection", m.of("close", "keep-alive", strings.ToLower(m.of(signed...)), m.of(vouched...), "x, "+m.of(signed...), "content-type", "Content-Length", strings.ReplaceAll(m.of(vouched...), "-", "_")))
	},
	func(m *mutator, d *draft) {
		d.set(m.of("Expect", "Upgrade", "Te", "Proxy-Connection"), m.of("100-continue", "h2c", "trailers", "websocket"))
	},
	func(m *mutator, d *draft) { d.set(m.of("X-Forwarded-For", "Forwarded", "X-Real-Ip"), "192.0.2.1") },
	// The request line.
	func(m *mutator, d *draft) {
		d.method = m.of("GET", "PUT", "post", "HEAD", "OPTIONS", "PATCH", "DELETE")
	},
	func(m *mutator, d *draft) {
		d.target = m.of(route+"/", route+"?x=1", route+";x", "/webhooks%2freplicate", "/WEBHOOKS/replicate", "//webhooks/replicate", route+"/../replicate", "http://127.0.0.1"+route, "*")
	},
	func(m *mutator, d *draft) { d.proto = "HTTP/1.0" },
}

func flip(m *mutator, d *draft) {
	if len(d.body) > 0 {
		d.body = slices.Clone(d.body)
		d.body[m.IntN(len(d.body))] ^= 1 << m.IntN(8)
	}
}

// mangle changes a signature header's value.
func mangle(m *mutator, v string) string {
	switch m.IntN(14) {
	case 0:
		return strings.ToUpper(v)
	case 1:
		return m.of("sha256=", "sha512=", "sha1=", "SHA256=", "sha256==", "v1=", "v1,", "v0,", "v2,") + v
	case 2:
		return v[:m.IntN(len(v)+1)]
	case 3:
		return v + m.of("0", " ", "=", ",", ".", ";x", "\t")
	case 4:
		return strings.Repeat(v+" ", 1+m.IntN(60))
	case 5:
		return v + ", " + v
	case 6:
		return ""
	case 7:
		return m.of("0", "+", "-", "0x", " ") + v
	case 8:
		return m.of("v1a,", "v2,", "v1,") + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(m.IntN(256))}, 32))
	case 9:
		return hex.EncodeToString(bytes.Repeat([]byte{byte(m.IntN(256))}, 32))
	case 10:
		return strings.TrimRight(v, "=")
	case 11:
		return strings.NewReplacer("+", "-", "/", "_").Replace(v)
	case 12:
		return m.of("now", "1e9", "99999999999999", "0", "-1", fmt.Sprint(time.Now().Unix()), fmt.Sprint(time.Now().UnixMilli()))
	default:
		if v == "" {
			return v
		}
		b := []byte(v)
		b[m.IntN(len(b))] = byte(' ' + m.IntN(95))
		return string(b)
	}
}
