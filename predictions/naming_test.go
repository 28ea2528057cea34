package predictions

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

func utf16Of(s, mark string, swap bool) string {
	b := []byte(mark)
	for i := range len(s) {
		if swap {
			b = append(b, 0, s[i])
		} else {
			b = append(b, s[i], 0)
		}
	}
	return string(b)
}

const parts = "--b\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\nhttps://r.example\r\n--b--\r\n"

// A create that names a webhook and can't be acted on never reaches the API,
// however lenient that may be. Its refusal says what is wrong and what to write.
func TestAWebhookThatCannotBeActedOnIsRefusedBeforeTheAPISeesIt(t *testing.T) {
	const form, json = "application/x-www-form-urlencoded", "application/json"
	member := `"webhook_url":"https://r.example"`
	for _, c := range []struct {
		name, contentType, coding, body string
		status                          int
		says                            []string
	}{
		{"a byte order mark", json, "", "\ufeff{" + member + "}", 422, []string{"byte order mark"}},
		{"a trailing comma", json, "", "{\n " + member + ",\n}", 422, []string{"line 3, column 1", "leave the comma"}},
		{"a trailing comma in a list", json, "", `{"input":{"a":[1,]},` + member + "}", 422, []string{"line 1, column 18", "leave the comma"}},
		{"NaN", json, "", `{"input":{"a":NaN},` + member + "}", 422, []string{"column 15", "null"}},
		{"-Infinity", json, "", `{` + member + `,"input":{"a":-Infinity}}`, 422, []string{"column"}},
		{"True", json, "", `{` + member + `,"input":{"a":True}}`, 422, []string{"true and false"}},
		{"a raw line break", json, "", "{" + member + ",\"input\":{\"a\":\"x\ny\"}}", 422, []string{`write it as \\u000a`}},
		{"a raw tab", json, "", "{" + member + ",\"input\":{\"a\":\"x\ty\"}}", 422, []string{`write it as \\u0009`}},
		{"single quotes", json, "", `{'webhook_url':'https://r.example'}`, 422, []string{"double quotes"}},
		{"no quotes", json, "", `{webhook_url:"https://r.example"}`, 422, []string{"double quotes"}},
		{"a comment", json, "", "{/* hi */" + member + "}", 422, []string{"comments"}},
		{"a comment with a quote", json, "", "{// isn't\n" + member + "}", 422, []string{"comments"}},
		{"an escaped name", json, "", `{"webhook\u005furl":"https://r.example",}`, 422, []string{"webhook_url"}},
		{"cut off", json, "", `{"input":{},` + member, 422, []string{"is it whole"}},
		{"two objects", json, "", "{" + member + "}{}", 422, []string{"webhook_url"}},
		{"not UTF-8", json, "", "{" + member + ",\"input\":\"\xff\"}", 422, []string{"UTF-8"}},
		{"UTF-16LE", json, "", utf16Of("{"+member+"}", "\xff\xfe", false), 422, []string{"UTF-8"}},
		{"UTF-16BE", json, "", utf16Of("{"+member+"}", "", true), 422, []string{"UTF-8"}},
		{"twice", json, "", "{" + member + "," + member + "}", 422, []string{"given 2 times"}},
		{"events alone", json, "", `{"webhook_events":["started"],}`, 422, []string{"webhook_events"}},
		{"test mode alone", json, "", `{"test_mode":true,}`, 422, []string{"test_mode"}},
		{"a form", form, "", "input=x&webhook_url=https%3A%2F%2Fr.example", 415, []string{"webhook_url", "application/json"}},
		{"a form with escapes", form, "", "webhook%5Furl=x", 415, []string{"application/json"}},
		{"a list in a form", form, "", "webhook_events[]=started", 415, []string{"webhook_events"}},
		{"JSON in the place of a form", form, "", "{" + member + "}", 415, []string{"application/json"}},
		{"text", "text/plain", "", "{" + member + "}", 415, []string{"text/plain"}},
		{"text that is broken", "text/plain", "", "{" + member + ",}", 415, []string{"text/plain"}},
		{"YAML", "application/yaml", "", "input:\n  a: 1\nwebhook_url: https://r.example\n", 415, []string{"yaml"}},
		{"another JSON", "text/json", "", "{" + member + "}", 415, []string{"text/json"}},
		{"multipart", "multipart/form-data; boundary=b", "", fmt.Sprintf(parts, "webhook_url"), 415, []string{"multipart/form-data"}},
		{"multipart without its boundary", "multipart/form-data", "", fmt.Sprintf(parts, "webhook_url"), 415, []string{"multipart/form-data"}},
		{"gzip", json, "gzip", encodings(t, "{"+member+"}")["gzip"], 415, []string{"Content-Encoding", "gzip"}},
		{"brotli", json, "br", encodings(t, "{"+member+"}")["br"], 415, []string{"Content-Encoding", "br"}},
		{"twice encoded", json, "gzip, gzip", encodings(t, "{"+member+"}")["gzip, gzip"], 415, []string{"Content-Encoding"}},
		{"over max_body", json, "", "{" + member + `,"input":"` + strings.Repeat("x", 5000) + `"}`, 413, []string{"webhook_url", "3000 bytes"}},
		{"over max_body, gzip", json, "gzip", encodings(t, "{"+member+`,"input":"`+strings.Repeat("x", 100_000)+`"}`)["gzip"], 415, []string{"Content-Encoding"}},
		{"over max_body, found late", json, "", `{"input":"` + strings.Repeat("x", 50_000) + `",` + member + "}", 413, []string{"webhook_url", "3000 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.h.MaxBody = 3000
			reached := false
			f.answerWith(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadAll(r.Body); err != nil {
					return // as a proxy does, whose request broke off
				}
				reached = true
			})
			w := f.do("POST", "/v1/predictions", c.body, "Content-Type", c.contentType, "Content-Encoding", c.coding)
			wantProblem(t, w, c.status, "")
			for _, text := range c.says {
				if !strings.Contains(w.Body.String(), text) {
					t.Errorf("the response is %s, want %q in it", w.Body, text)
				}
			}
			if reached {
				t.Error("the API got the request")
			}
			wantCalls(t, f.fake.Calls("reserve", "created"))
		})
	}
}

// A request that names no member of ours passes byte for byte, however broken.
func TestWhatNamesNoWebhookPassesByteForByte(t *testing.T) {
	for _, c := range []struct{ name, contentType, coding, body string }{
		{"broken JSON", "application/json", "", `{"input":{"webhook_url":"https://x"},}`},
		{"a name in a value", "application/json", "", `{"input":"webhook_url",}`},
		{"a name in a broken value", "application/json", "", "{\"prompt\":\"say \\\"webhook_url\\\": \n\",}"},
		{"a list", "application/json", "", `[{"webhook_url":"x"},]`},
		{"a longer name", "application/json", "", `{"webhook_url_2":1,"my_webhook_url":1,"webhook_events_filter":[],}`},
		{"a name in a comment", "application/json", "", "{/* webhook_url: */\"a\":1}"},
		{"a form", "application/x-www-form-urlencoded", "", "prompt=webhook_url&q=webhook_url%3D&my_webhook_url=1&="},
		{"multipart", "multipart/form-data; boundary=b", "", fmt.Sprintf(parts, "file") + "webhook_url=1"},
		{"multipart that is none", "multipart/form-data; boundary=b", "", "name=\"webhook_url\""},
		{"text", "text/plain", "", "tell me about webhook_url: it is nice\nand \"webhook_url\""},
		{"binary", "application/octet-stream", "", "\xff\xfe\x00\x01webhook_url\x00"},
		{"an unknown coding", "application/json", "exi", `{"webhook_url":"https://x"}`},
		{"a broken coding", "application/json", "gzip", "\x1f\x8bnonsense"},
		{"gzip", "application/json", "gzip", encodings(t, `{"input":{"webhook_url":1}}`)["gzip"]},
		{"large", "application/json", "", `{"a":"` + strings.Repeat("x", 9000) + `","input":{"webhook_url":"x"},}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.h.MaxBody = 3000
			var got []byte
			var header http.Header
			f.answerWith(func(w http.ResponseWriter, r *http.Request) {
				got, _ = io.ReadAll(r.Body)
				header = r.Header
				_, _ = io.WriteString(w, `{"id":"p"}`)
			})
			w := f.do("POST", "/v1/predictions", c.body, "Content-Type", c.contentType, "Content-Encoding", c.coding)
			if string(got) != c.body || header.Get("Content-Encoding") != c.coding || w.Body.String() != `{"id":"p"}` {
				t.Fatalf("passed %q, responded %s", got, w.Body)
			}
			wantCalls(t, f.fake.Calls(""))
		})
	}
}

// A path that only resembles a create's may be one to a lenient API.
func TestAMisspelledCreateWithAWebhookIsRefused(t *testing.T) {
	for _, c := range []struct{ method, path string }{
		{"POST", "/v1/predictions/"}, {"POST", "/v1//predictions"}, {"POST", "/v1/%70redictions"}, {"POST", "/v1/predictions;v=1"},
		{"POST", "/v1/Predictions"}, {"POST", "/v2/predictions"}, {"POST", "/v1/models/a/b/versions/c/predictions"}, {"PUT", "/v1/predictions/p"},
		{"POST", "/v1/trainings/"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			reached := 0
			f.answerWith(func(_ http.ResponseWriter, r *http.Request) {
				if b, _ := io.ReadAll(r.Body); string(b) == plainBody {
					reached++
				}
			})
			wantProblem(t, f.do(c.method, c.path, ourBody), 422, "webhook_url can't be acted on at "+c.method)
			wantStatus(t, f.do(c.method, c.path, plainBody), 200, "")
			if reached != 1 {
				t.Fatalf("the API got %d requests, want the one without a webhook", reached)
			}
		})
	}
}

// FuzzFinder holds that pieces change nothing, that what is JSON is read as JSON,
// and that what names none of ours is not refused.
func FuzzFinder(f *testing.F) {
	for _, s := range []string{
		`{"webhook_url":1}`, `{'webhook_url' : 1}`, "{a:1,//x\nwebhook_url:1}", `{"a":{"webhook_url":1},"test_mode":[`, "webhook_events: x", "{\"\\u0077ebhook_url\":1}", "/* */{", "\x00{\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		whole, pieces := ownMembers.finder(), ownMembers.finder()
		_, _ = whole.Write(body)
		for i := range body {
			_, _ = pieces.Write(body[i : i+1])
		}
		if whole.Found() != pieces.Found() {
			t.Fatalf("%q: %q in one, %q in pieces", body, whole.Found(), pieces.Found())
		}
		if whole.Found() != "" && !mentions(body) && !strings.Contains(string(body), `\`) && !strings.Contains(string(body), "\x00") {
			t.Fatalf("%q names %s, and is not seen to mention it", body, whole.Found())
		}
		hook, err := ownMembers.readCreate(body, func(string) error { return nil }, nil)
		if hook != nil && whole.Found() == "" {
			t.Fatalf("%q has a webhook that the finder does not find", body)
		}
		_ = err
	})
}

func TestLargeCreatesAreStoppedWhereTheyNameAWebhook(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.h.MaxBody = 1000
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			t.Errorf("the API got %d bytes as a whole request", len(b))
		}
	}))
	defer api.Close()
	f.answerWith(func(w http.ResponseWriter, r *http.Request) {
		out, _ := http.NewRequest(http.MethodPost, api.URL, r.Body)
		out.ContentLength = r.ContentLength
		if resp, err := http.DefaultClient.Do(out); err == nil {
			_ = resp.Body.Close()
			w.WriteHeader(resp.StatusCode)
		}
	})
	w := f.do("POST", "/v1/predictions", `{"input":"`+strings.Repeat("x", 300_000)+`","webhook_url":"https://r.example","a":"`+strings.Repeat("x", 300_000)+`"}`)
	wantProblem(t, w, 413, "a request with a webhook_url may have at most 1000 bytes")
	if w.Header().Get("Connection") != "close" {
		t.Error("the connection stays open")
	}
}
