package predictions

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func parsed(t testing.TB, src string) *ecmajson.Document {
	t.Helper()
	doc, err := ecmajson.Parse([]byte(src), withMembers, createMembers)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// augmentText augments a response, or returns it as it is if it is not an object.
func augmentText(src []byte, f fields) []byte {
	s, doc, err := prediction.ParseDocument(src)
	if err != nil {
		return src
	}
	return augment(doc, s.Webhook, f)
}

func TestOnlyOurMembersAreCut(t *testing.T) {
	for _, c := range []struct{ name, in, callback, want string }{
		{"first", `{"webhook_url":"u","a":1}`, "", `{"a":1}`},
		{"last", `{"a":1,"webhook_url":"u"}`, "", `{"a":1}`},
		{"middle", `{"a":1,"webhook_url":"u","b":2}`, "", `{"a":1,"b":2}`},
		{"all", `{"webhook_url":"u","test_mode":true,"webhook_events":[]}`, "", `{}`},
		{"scattered", `{"test_mode":1,"a":1,"webhook_url":"u","b":2,"webhook_events":["x",{"y":1}]}`, "", `{"a":1,"b":2}`},
		{"white space", " {\n  \"a\" : 1 ,\n  \"webhook_url\" : \"u\" ,\n  \"b\" : 2\n}\n", "", " {\n  \"a\" : 1 ,\n  \"b\" : 2\n}\n"},
		{"white space, last", "{\n  \"a\": 1,\n  \"webhook_url\": \"u\"\n}\n", "", "{\n  \"a\": 1\n}\n"},
		{"escaped name", `{"\u0077ebhook_url":"u","a":1}`, "", `{"a":1}`},
		{"numbers, order and escapes stay", `{"b":1e400,"webhook_url":"u","2":9007199254740993,"1":-0.0,"\u003c":"\/\ud800\u2028"}`, "",
			`{"b":1e400,"2":9007199254740993,"1":-0.0,"\u003c":"\/\ud800\u2028"}`},
		{"nested names stay", `{"input":{"webhook_url":"u","test_mode":1},"webhook_url":"u"}`, "", `{"input":{"webhook_url":"u","test_mode":1}}`},
		{"other duplicates stay", `{"a":1,"webhook_url":"u","a":2}`, "", `{"a":1,"a":2}`},
		{"native stays", `{"webhook":"n","webhook_events_filter":["output"],"webhook_url":"u"}`, "", `{"webhook":"n","webhook_events_filter":["output"]}`},
		{"callback", `{"a":1,"webhook_url":"u"}`, "https://c/t", `{"a":1,"webhook":"https://c/t","webhook_events_filter":["start","completed"]}`},
		{"callback alone", `{"webhook_url":"u"}`, "https://c/t", `{"webhook":"https://c/t","webhook_events_filter":["start","completed"]}`},
		{"callback takes the place of a null", `{"webhook":null,"a":1,"webhook_events_filter":["logs"],"webhook_url":"u"}`, "c", `{"a":1,"webhook":"c","webhook_events_filter":["start","completed"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(cutRequest(parsed(t, c.in), c.callback)); got != c.want {
				t.Fatalf("%s became\n%s, want\n%s", c.in, got, c.want)
			}
		})
	}
}

func TestAnswersGainThreeMembers(t *testing.T) {
	pending := fields{url: "https://x/<", status: store.WebhookPending}
	const three = `"webhook_url":"https://x/<","webhook_status":"pending","webhook_completed":false`
	ours := pending
	ours.ours = func(s string) bool { return s == "https://c/t" }
	for _, c := range []struct {
		name, in string
		f        fields
		want     string
	}{
		{"added last", `{"id":"p"}`, pending, `{"id":"p",` + three + `}`},
		{"empty object", `{}`, pending, `{` + three + `}`},
		{"trailing newline", "{\"id\":\"p\"}\n", pending, `{"id":"p",` + three + "}\n"},
		{"white space", "{\n \"id\": \"p\"\n}", pending, "{\n \"id\": \"p\"," + three + "\n}"},
		{"replaced", `{"webhook_completed":null,"id":"p","webhook_status":3,"webhook_url":[]}`, pending, `{"id":"p",` + three + `}`},
		{"all replaced", `{"webhook_completed":null}`, pending, `{` + three + `}`},
		{"escapes stay", `{"l":"\u003clog\u003e","n":1e999}`, pending, `{"l":"\u003clog\u003e","n":1e999,` + three + `}`},
		{"disabled", `{"id":"p"}`, fields{status: store.WebhookDisabled, completed: true}, `{"id":"p","webhook_url":null,"webhook_status":"disabled","webhook_completed":true}`},
		{"our callback is hidden", `{"webhook":"https://c/t","id":"p","webhook_events_filter":["start"]}`, ours, `{"id":"p",` + three + `}`},
		{"the client's callback is not", `{"webhook":"https://d/t","webhook_events_filter":["start"]}`, ours, `{"webhook":"https://d/t","webhook_events_filter":["start"],` + three + `}`},
		{"no object", `[1]`, pending, `[1]`},
		{"no JSON", `{"id":`, pending, `{"id":`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(augmentText([]byte(c.in), c.f)); got != c.want {
				t.Fatalf("%s became\n%s, want\n%s", c.in, got, c.want)
			}
		})
	}
}

func TestKeyIsReplaced(t *testing.T) {
	doc, ok := readKey([]byte("{\"key\":\"theirs\",\"more\":1}\n"))
	if !ok {
		t.Fatal("the key is not found")
	}
	if got, want := string(replaceKey(doc, "ours")), "{\"more\":1,\"key\":\"ours\"}\n"; got != want {
		t.Fatalf("got %s", got)
	}
	for _, in := range []string{`{}`, `{"key":1}`, `[]`, `x`, ``} {
		if _, ok := readKey([]byte(in)); ok {
			t.Errorf("%q has a key", in)
		}
	}
}

// members decodes an object without losing anything of its values.
func members(t testing.TB, src []byte) map[string]json.RawMessage {
	t.Helper()
	doc, err := ecmajson.Parse(src, withMembers, nil)
	if err != nil {
		t.Fatalf("the result does not parse: %v\n%s", err, src)
	}
	out := make(map[string]json.RawMessage)
	for m := range doc.EachMember() {
		out[m.Key] = src[m.ValueStart:m.ValueEnd]
	}
	return out
}

// subsequence reports that b is a with some bytes left out.
func subsequence(a, b []byte) bool {
	for _, c := range b {
		i := bytes.IndexByte(a, c)
		if i < 0 {
			return false
		}
		a = a[i+1:]
	}
	return true
}

func FuzzCutMembers(f *testing.F) {
	for _, s := range []string{
		`{"webhook_url":"https://x","input":{"a":[1,{"b":null}]},"test_mode":true}`,
		"{ \"a\" : 1 ,\n\"\\u0077ebhook_url\" : {} , \"a\" : 2 }\n",
		`{}`, `{"webhook_events":[]}`, `{"":"","webhook_url":null,"\ud800":1e999}`, `[1]`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		doc, err := ecmajson.Parse(src, withMembers, nil)
		if err != nil || doc.Kind() != ecmajson.Object {
			return
		}
		before := bytes.Clone(src)
		got := cutRequest(doc, "")
		if !bytes.Equal(before, src) {
			t.Fatal("the source was changed")
		}
		want := members(t, src)
		delete(want, memberURL)
		delete(want, memberEvents)
		delete(want, memberTest)
		if left := members(t, got); !reflect.DeepEqual(left, want) {
			t.Fatalf("%q became %q", src, got)
		}
		if !subsequence(src, got) {
			t.Fatalf("%q is not what is left of %q", got, src)
		}
		if len(want) == len(members(t, src)) && !bytes.Equal(src, got) {
			t.Fatalf("nothing was to be cut, but %q became %q", src, got)
		}
		with := members(t, cutRequest(doc, "https://c/t"))
		want[nativeURL] = json.RawMessage(`"https://c/t"`)
		want[nativeEvents] = json.RawMessage(`["start","completed"]`)
		if !reflect.DeepEqual(with, want) {
			t.Fatalf("with a callback %q became %q", src, with)
		}
	})
}

func FuzzAugment(f *testing.F) {
	for _, s := range []string{
		"{\"id\":\"p\",\"webhook_completed\":null}\n",
		`{"webhook":"https://c/t","webhook_status":{}}`,
		`{ }`, `[{"id":"p"}]`, `{"a":"\u003c","a":1}`,
	} {
		f.Add([]byte(s), "https://x/é\"\\\x01", true)
	}
	f.Fuzz(func(t *testing.T, src []byte, url string, completed bool) {
		doc, err := ecmajson.Parse(src, withMembers, nil)
		v := fields{url: url, status: store.WebhookDelivered, completed: completed, ours: func(s string) bool { return s == "https://c/t" }}
		got := augmentText(src, v)
		if err != nil || doc.Kind() != ecmajson.Object {
			if !bytes.Equal(src, got) {
				t.Fatalf("%q is no object and became %q", src, got)
			}
			return
		}
		want := members(t, src)
		if string(want[nativeURL]) == `"https://c/t"` {
			delete(want, nativeURL)
			delete(want, nativeEvents)
		}
		after := members(t, got)
		for _, name := range []string{nativeURL, nativeEvents} {
			// Spelled with escapes, a webhook is ours all the same.
			if _, left := after[name]; !left {
				delete(want, name)
			}
		}
		for _, name := range []string{memberURL, memberStatus, memberCompleted} {
			delete(want, name)
			if after[name] == nil {
				t.Fatalf("%q has no %s", got, name)
			}
			delete(after, name)
		}
		if !reflect.DeepEqual(after, want) {
			t.Fatalf("%q became %q", src, got)
		}
		if again := augmentText(got, v); !reflect.DeepEqual(members(t, again), members(t, got)) {
			t.Fatalf("augmented twice, %q became %q", got, again)
		}
	})
}

func TestMentions(t *testing.T) {
	for _, name := range []string{memberURL, memberEvents, memberTest, `\u0077ebhook_url`, `webhook\u005furl`} {
		for _, body := range []string{name, `{"` + name + `":1}`, `{"a_b":"_",` + "\n" + `"` + name, `\\` + name + `_`, `__` + name + `\`} {
			if !mentions([]byte(body)) {
				t.Errorf("%s in %s goes unnoticed", name, body)
			}
			if cut := name[:len(name)-1]; !strings.Contains(name, `\u`) && mentions([]byte(strings.ReplaceAll(body, name, cut))) {
				t.Errorf("%s is taken for %s", cut, name)
			}
		}
	}
	for _, body := range []string{"", "_", `\`, "webhook", "_url", "webhook_", "test_mod", "testmode_", `\n\\`} {
		if mentions([]byte(body)) {
			t.Errorf("%q mentions nothing", body)
		}
	}
}

func BenchmarkMentions(b *testing.B) {
	body := []byte(`{"input":{"prompt":"` + strings.Repeat("A serene landscape at dawn, mist over a lake, pines on the far shore, soft light, ", 800) + `"}}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if mentions(body) {
			b.Fatal("mentioned")
		}
	}
}

func BenchmarkAugment(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			src := []byte(`{"id":"p","status":"processing","input":{"prompt":"a cat"},"output":"` + strings.Repeat("x", size) + `","created_at":"2026-01-02T03:04:05.123456Z"}`)
			f := fields{url: "https://r.example/hook", status: store.WebhookPending}
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				augmentText(src, f)
			}
		})
	}
}
