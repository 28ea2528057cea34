package predictions

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

func TestCreatesAreJudgedBeforeTheUpstreamSeesThem(t *testing.T) {
	const url = `"webhook_url":"https://x"`
	check := newFake().CheckURL
	for _, c := range []struct{ name, body, refused string }{
		{"fine", `{` + url + `}`, ""},
		{"URL refused", `{"webhook_url":"http://x"}`, "webhook_url must use https"},
		{"URL empty", `{"webhook_url":""}`, "webhook_url must use https"},
		{"URL a number", `{"webhook_url":1}`, "must be a string or null"},
		{"URL an object", `{"webhook_url":{}}`, "must be a string or null"},
		{"URL twice", `{` + url + `,` + url + `}`, "webhook_url is given 2 times"},
		{"URL twice, once with escapes", `{` + url + `,"webhook_\u0075rl":null}`, "webhook_url is given 2 times"},
		{"events a string", `{` + url + `,"webhook_events":"started"}`, "must be an array"},
		{"events of another kind", `{` + url + `,"webhook_events":[1]}`, "must hold strings"},
		{"unknown event", `{` + url + `,"webhook_events":["started","output"]}`, `"output" is not an event`},
		{"no events", `{` + url + `,"webhook_events":[]}`, "is empty"},
		{"too many events", `{` + url + `,"webhook_events":["` + strings.Repeat("x", 5000) + `"]}`, "too long"},
		{"events twice", `{` + url + `,"webhook_events":["started"],"webhook_events":["failed"]}`, "webhook_events is given 2 times"},
		{"events alone", `{"webhook_events":["started"]}`, "webhook_events needs a webhook_url"},
		{"events with a null", `{"webhook_url":null,"webhook_events":["started"]}`, "webhook_events needs a webhook_url"},
		{"test mode alone", `{"test_mode":true}`, "test_mode needs a webhook_url"},
		{"test mode a number", `{` + url + `,"test_mode":1}`, "test_mode must be"},
		{"test mode unknown", `{` + url + `,"test_mode":"prediction.started"}`, "test_mode must be"},
		{"test input", `{` + url + `,"test_mode":true,"input":[]}`, "input must be an object"},
		{"a number beyond our parser", `{` + url + `,"input":` + strings.Repeat("1", 5000) + `}`, "can't be read"},
		{"not UTF-8", "{" + url + ",\"input\":\"\xff\"}", "can't be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := ownMembers.readCreate([]byte(c.body), check, nil)
			var p *problem
			switch {
			case c.refused == "":
				if err != nil || h == nil || !h.asked {
					t.Fatalf("got %+v, %v", h, err)
				}
			case !errors.As(err, &p) || p.status != http.StatusUnprocessableEntity || !strings.Contains(p.detail, c.refused):
				t.Fatalf("got %v, want 422 with %q", err, c.refused)
			}
		})
	}
}

func TestCreatesThatAreNoneOfOurs(t *testing.T) {
	for _, body := range []string{
		`{"webhook_url`, `["webhook_url"]`, `"webhook_url"`, ``, `{}`, `[{"webhook_url":"https://x"},]`,
		`{"input":{"webhook_url":"https://x"}}`, `{"webhook_events_filter":["start"]}`, "\ufeff{}", `{'webhook':1}`,
		`{"input":` + strings.Repeat("1", 5000) + `}`,
	} {
		if h, err := ownMembers.readCreate([]byte(body), newFake().CheckURL, nil); h != nil || err != nil {
			t.Errorf("%.40s: %+v, %v", body, h, err)
		}
	}
}

func TestWhatACreateSays(t *testing.T) {
	read := func(body string) *hook {
		t.Helper()
		h, err := ownMembers.readCreate([]byte(body), newFake().CheckURL, nil)
		if err != nil || h == nil {
			t.Fatalf("%s: %+v, %v", body, h, err)
		}
		return h
	}
	h := read(`{"version":"v","input":{"b":1,"a":1.0},"webhook_url":"https://\u0078/","webhook_events":["started","prediction.failed"],"test_mode":"prediction.failed"}`)
	if h.url != "https://x/" || h.events != event.Started|event.Failed || h.test != testFailure || h.version != "v" || string(h.input) != `{"b":1,"a":1}` || h.foreign {
		t.Fatalf("got %+v", h)
	}
	for text, want := range map[string]testMode{"true": testSuccess, `"prediction.completed"`: testSuccess, "false": testOff, "null": testOff} {
		if h := read(`{"webhook_url":"https://x","test_mode":` + text + `}`); h.test != want {
			t.Errorf("test_mode %s is %v", text, h.test)
		}
	}
	for text, want := range map[string]bool{`"https://n"`: true, `null`: false, `1`: true, `""`: true} {
		if h := read(`{"webhook_url":"https://x","webhook":` + text + `}`); h.foreign != want {
			t.Errorf("webhook %s: the client's own is %v", text, h.foreign)
		}
	}
	for _, body := range []string{`{"webhook_url":null}`, `{"test_mode":false}`, `{"webhook_events":null}`} {
		if h := read(body); h.asked {
			t.Errorf("%s asks for a webhook", body)
		}
	}
}

func TestUpdatesAreJudged(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       patch
		status     int
		refused    string
	}{
		{"URL", `{"webhook_url":"https://x"}`, patch{hasURL: true, url: "https://x"}, 0, ""},
		{"null", `{"webhook_url":null}`, patch{hasURL: true}, 0, ""},
		{"events", `{"webhook_events":["completed"]}`, patch{events: event.Completed}, 0, ""},
		{"both", `{"webhook_url":"https://x","webhook_events":["completed"]}`, patch{true, "https://x", event.Completed}, 0, ""},
		{"empty", `{}`, patch{}, 422, "nothing to update"},
		{"null events", `{"webhook_events":null}`, patch{}, 422, "nothing to update"},
		{"unknown member", `{"webhook_url":null,"input":{}}`, patch{}, 422, `"input" can't be updated`},
		{"twice", `{"webhook_url":null,"webhook_url":null}`, patch{}, 422, "given twice"},
		{"bad URL", `{"webhook_url":"x"}`, patch{}, 422, "must use https"},
		{"bad events", `{"webhook_events":{}}`, patch{}, 422, "must be an array"},
		{"not JSON", `{`, patch{}, 400, "can't be read"},
		{"nothing", ``, patch{}, 400, "can't be read"},
		{"not an object", `[]`, patch{}, 422, "must be a JSON object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readPatch([]byte(c.body), newFake().CheckURL)
			var p *problem
			switch {
			case c.status == 0:
				if err != nil || got != c.want {
					t.Fatalf("got %+v, %v", got, err)
				}
			case !errors.As(err, &p) || p.status != c.status || !strings.Contains(p.detail, c.refused):
				t.Fatalf("got %v, want %d with %q", err, c.status, c.refused)
			}
		})
	}
}

func TestContentTypes(t *testing.T) {
	for ct, want := range map[string]bool{
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/vnd.x+json": true, "": true,
		"text/event-stream": false, "text/plain": false, "application/jsonp": false, "multipart/form-data; boundary=json": false,
	} {
		if got := isJSON(ct, true); got != want {
			t.Errorf("%q: %v", ct, got)
		}
	}
	if isJSON("", false) {
		t.Error("an answer without a content type counts as JSON")
	}
	for coding, want := range map[string]bool{"": true, "identity": true, " Identity": true, "gzip": false, "identity, gzip": false} {
		if got := identity(http.Header{"Content-Encoding": {coding}}); got != want {
			t.Errorf("%q: %v", coding, got)
		}
	}
}

// FuzzReadCreate holds that no body of a create panics, that what is refused is
// refused as a client's mistake, and that what is captured has a URL that was
// judged and leaves none of our members in what the API gets.
func FuzzReadCreate(f *testing.F) {
	for _, s := range []string{
		`{"webhook_url":"https://x/","webhook_events":["started"],"test_mode":true,"input":{}}`,
		`{"webhook_url":null,"test_mode":"prediction.failed"}`, `{"webhook_url":7}`, `{"\u0077ebhook_url":"https://x/"}`,
		`{"webhook_url":"https://x/","webhook_url":"https://y/"}`, `{"webhook_events":[["started"]]}`, `[]`, `{"webhook_url":`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var judged []string
		hook, err := ownMembers.readCreate(body, func(raw string) error {
			judged = append(judged, raw)
			if !strings.HasPrefix(raw, "https://") {
				return errors.New("webhook_url must use https")
			}
			return nil
		}, nil)
		_, _ = readPatch(body, func(string) error { return nil })
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status < 400 || p.status > 499 {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if hook == nil || !hook.asked {
			return
		}
		if !slices.Contains(judged, hook.url) || !strings.HasPrefix(hook.url, "https://") {
			t.Fatalf("%q: captured the URL %q, which was not judged", body, hook.url)
		}
		sent := cutRequest(hook.doc, "")
		if again, err := ownMembers.readCreate(sent, func(string) error { return nil }, nil); err != nil || again != nil {
			t.Fatalf("%q: the API gets %q, %v", body, sent, err)
		}
	})
}
