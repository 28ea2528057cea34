package delivery_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestOutputsTheGuidesReceiverVerifies: whatever a model puts out, a receiver
// that signs JSON.stringify of what it has parsed gets the signature right, and
// so do the libraries that sign the bytes.
func TestOutputsTheGuidesReceiverVerifies(t *testing.T) {
	s := start(t, fakeapi.Options{Manual: true}, config{})
	r := s.newReceiver()
	for _, c := range []struct{ name, output, has string }{
		{"integers beyond 2^53", `[9007199254740993,18446744073709551615,-9007199254740993]`, `"output":[9007199254740992,18446744073709552000,-9007199254740992]`},
		{"numbers beyond a double", `[1e999,-1e999,1e-999,-0.0]`, `"output":[null,null,0,0]`},
		{"spellings of numbers", `[1.0,1E3,0.1e1,1e21,123456789.10]`, `"output":[1,1000,1,1e+21,123456789.1]`},
		{"keys like integers", `{"b":1,"10":2,"2":3,"a":4,"01":5}`, `"output":{"2":3,"10":2,"b":1,"a":4,"01":5}`},
		{"duplicate keys", `{"a":1,"b":2,"a":{"c":3,"c":4}}`, `"output":{"a":{"c":4},"b":2}`},
		{"__proto__", `{"__proto__":{"x":1},"constructor":2}`, `"output":{"__proto__":{"x":1},"constructor":2}`},
		{"line separators", `"\u2028\u2029` + "\u2028" + `"`, "\"output\":\"\u2028\u2029\u2028\""},
		{"lone surrogates", `"\ud800 \udfff \ud83d\ude00"`, "\"output\":\"\\ud800 \\udfff \U0001F600\""},
		{"what HTML minds", `"\u003cscript\u003e&amp;<b>"`, `"output":"<script>&amp;<b>"`},
		{"escapes of all kinds", `"\/\b\f\n\r\t\u0000\u001f\u007f\"\\"`, `"output":"/\b\f\n\r\t\u0000\u001f` + "\u007f" + `\"\\"`},
		{"deep nesting", strings.Repeat("[", 500) + strings.Repeat("]", 500), `"output":[[[[`},
		{"a data URI", `"data:image/png;base64,` + strings.Repeat("iVBORw0KGgo/", 40_000) + `"`, ""},
		{"a string of 5 MB", `"` + strings.Repeat(`\u00e9<&>`, 600_000) + `"`, ""},
		{"nothing", `null`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t, r.t = t, t
			before := r.count() - 1
			v := s.run(r.url)
			r.verified(r.wait(before + 1))
			s.api.Set(v.ID, "succeeded", c.output)
			got := r.wait(before + 2)
			r.verified(got)
			if got.Parsed.ID != v.ID || got.Parsed.Status != "succeeded" || !strings.Contains(got.Body, c.has) {
				t.Fatalf("the receiver got %d bytes of %s: %.600s\nwant %s", got.Length, got.Parsed.ID, got.Body, c.has)
			}
			if c.output == "null" && strings.Contains(got.Body, `"output"`) {
				t.Fatalf("an output that has no value is sent: %s", got.Body)
			}
			s.ends(v.ID, "delivered")
		})
	}
}

// TestInputsPassByteForByte: what the API gets is what the client sent, less our
// members.
func TestInputsPassByteForByte(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}})
	url, _ := json.Marshal(h.URL)
	for _, c := range []struct{ name, before, after string }{
		{"at the beginning", `{"webhook_url":` + string(url) + `,`, `"version":"v1","input":{"a":1e400}}`},
		{"in the middle", `{"version":"v1",`, `"webhook_url":` + string(url) + `,"input":{"b":[1.0,1E2,"\u00e9\/"]}}`},
		{"at the end", `{"version":"v1","input":{"1":0,"a":-0.0,"1":2}`, `,"webhook_url":` + string(url) + `}`},
		{"spelt with escapes", `{"version":"v1","input":{},`, `"webhook\u005furl":` + string(url) + `}`},
		{"with white space", "\n{ \"version\" :\t\"v1\" ,\r\n \"input\": { } , ", `"webhook_url" : ` + string(url) + " }\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			a := s.send(http.MethodPost, "/v1/predictions", c.before+c.after)
			if a.status != http.StatusCreated {
				t.Fatalf("got %v", a)
			}
			got := string(s.api.Last().Body)
			if strings.Contains(got, "webhook") {
				t.Fatalf("the API got our member: %q", got)
			}
			// Without what was cut out, the client's text is the API's.
			var i int
			sent := c.before + c.after
			for j := 0; j < len(sent) && i < len(got); j++ {
				if sent[j] == got[i] {
					i++
				}
			}
			if i != len(got) {
				t.Fatalf("the API got %q of %q", got, sent)
			}
			s.ends(s.read(a).ID, "delivered")
		})
	}
}
