package prediction

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

var at = time.Date(2026, 3, 1, 12, 30, 5, 678_900_000, time.FixedZone("", 3600))

func mustParse(t *testing.T, body string) *Snapshot {
	t.Helper()
	s, err := Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPayload(t *testing.T) {
	const full = `{"id":"p1","model":"o/n","version":"v1","input":{"prompt":"hi"},"logs":"x","output":["a"],"error":null,
		"status":"succeeded","created_at":"2026-03-01T11:00:00.123456Z","started_at":"2026-03-01T11:00:01Z","completed_at":"2026-03-01T12:00:02.123456789+01:00","metrics":{}}` + "\n"
	for _, c := range []struct {
		name, body string
		event      event.Set
		want       string
	}{
		{"completed", full, event.Completed,
			`{"event":"prediction.completed","prediction":{"id":"p1","version":"v1","input":{"prompt":"hi"},"output":["a"],"status":"succeeded","created_at":"2026-03-01T11:00:00.123Z","started_at":"2026-03-01T11:00:01.000Z","completed_at":"2026-03-01T11:00:02.123Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"started after the fact", full, event.Started,
			`{"event":"prediction.started","prediction":{"id":"p1","version":"v1","input":{"prompt":"hi"},"status":"processing","created_at":"2026-03-01T11:00:00.123Z","started_at":"2026-03-01T11:00:01.000Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"hardly anything", `{"id":"p","status":"canceled","version":null,"input":null,"output":null}`, event.Failed,
			`{"event":"prediction.failed","prediction":{"id":"p","version":"","input":{},"status":"canceled","created_at":"2026-03-01T11:30:05.678Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"error that is text", `{"id":"p","status":"failed","error":"no \u003cgpu\u003e"}`, event.Failed,
			`{"event":"prediction.failed","prediction":{"id":"p","version":"","input":{},"error":"no <gpu>","status":"failed","created_at":"2026-03-01T11:30:05.678Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"error that is not", `{"id":"p","status":"failed","error":{"b":"x","1":2}}`, event.Failed,
			`{"event":"prediction.failed","prediction":{"id":"p","version":"","input":{},"error":"{\"1\":2,\"b\":\"x\"}","status":"failed","created_at":"2026-03-01T11:30:05.678Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"wrong types", `{"id":1,"status":[],"version":{},"created_at":7,"started_at":false,"input":[1]}`, event.Failed,
			`{"event":"prediction.failed","prediction":{"id":"","version":"","input":[1],"status":"","created_at":"2026-03-01T11:30:05.678Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"times that are none", `{"id":"p","status":"succeeded","created_at":"yesterday","completed_at":"2026-03-01 11:00:00"}`, event.Completed,
			`{"event":"prediction.completed","prediction":{"id":"p","version":"","input":{},"status":"succeeded","created_at":"yesterday","completed_at":"2026-03-01 11:00:00"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
		{"number beyond the doubles", `{"id":"p","status":"succeeded","output":1e999}`, event.Completed,
			`{"event":"prediction.completed","prediction":{"id":"p","version":"","input":{},"status":"succeeded","created_at":"2026-03-01T11:30:05.678Z"},"timestamp":"2026-03-01T11:30:05.678Z"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := mustParse(t, c.body).Payload(c.event, at)
			if string(got) != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			checkForm(t, got)
		})
	}
}

// checkForm fails unless a receiver's JSON.stringify(JSON.parse(payload)) is
// the payload.
func checkForm(t *testing.T, payload []byte) {
	t.Helper()
	d, err := ecmajson.Parse(payload, ecmajson.Limits{MaxNumber: 1 << 16}, nil)
	if err != nil {
		t.Fatalf("payload does not parse: %v", err)
	}
	if !d.Canonical() {
		t.Errorf("payload changes when it is read and written again")
	}
	if _, _, dup := d.DuplicateKey(); dup {
		t.Errorf("payload has a duplicate key")
	}
}

// The guide's receiver verifies every output.
func TestPayloadIsStable(t *testing.T) {
	long := strings.Repeat("spam & eggs <b> ", 5<<20/16)
	for name, value := range map[string]string{
		"integers beyond 2^53": `[9007199254740993,123456789012345678901234567890,-9007199254740995]`,
		"overflow":             `[1e999,-1e999,{"a":1e400}]`,
		"index-like keys":      `{"b":1,"10":2,"9":3,"a":4,"01":5,"4294967295":6,"4294967294":7}`,
		"line separators":      "\"\u2028\u2029\\u2028\"",
		"lone surrogates":      `"\ud800 \udc00\ud800 \uD83D\uDE00"`,
		"markup":               `"\u003cscript\u003e & <b>\/"`,
		"duplicate keys":       `{"a":1,"b":{"x":1,"x":2},"a":{"z":1}}`,
		"numbers":              `[1.0,-0,1e21,1E-7,0.1e1,100000000000000000000]`,
		"a long string":        `"` + long + `"`,
		"a data URI":           `["data:image/png;base64,` + strings.Repeat("iVBORw0KGgo/", 60_000) + `=="]`,
		"white space":          " { \"a\" : [ 1 , 2 ] } ",
		"controls":             `"\u0000\u001F\b\t\u007f"`,
		"deep":                 strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"a long number":        `[1` + strings.Repeat("0", 20_000) + `e-20000]`,
		"__proto__":            `{"__proto__":{"a":1},"constructor":2}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, member := range []string{"input", "output", "error", "version", "id", "status", "created_at"} {
				s := mustParse(t, `{"id":"p","status":"succeeded","`+member+`":`+value+`}`)
				for _, e := range []event.Set{event.Started, event.Completed, event.Failed} {
					payload := s.Payload(e, at)
					checkForm(t, payload)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, body := range []string{``, `null`, `[]`, `"p"`, `{"id":"p"`, `{"id":"p"}x`, "{\"id\":\"\xff\"}", `<html>`, strings.Repeat("[", 20_000)} {
		if s, err := Parse([]byte(body)); err == nil {
			t.Errorf("Parse(%.20q) = %+v, want an error", body, s)
		}
	}
}

func TestFormatTime(t *testing.T) {
	for want, in := range map[string]time.Time{
		"2026-03-01T11:30:05.678Z": at,
		"0001-01-01T00:00:00.000Z": {},
		"9999-12-31T23:59:59.999Z": time.Date(30000, 1, 1, 0, 0, 0, 0, time.UTC),
		"0000-01-01T00:00:00.000Z": time.Date(-7, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got := FormatTime(in); got != want {
			t.Errorf("FormatTime(%v) = %s, want %s", in, got, want)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"gm3qorzdhgbfurvjtvhg6dckhu": true, "A-_9": true, strings.Repeat("a", 128): true,
		"": false, strings.Repeat("a", 129): false, "a/b": false, "..": false, "a\n": false, "a%2fb": false, "é": false,
	} {
		if got := ValidID(id); got != want {
			t.Errorf("ValidID(%q) = %v", id, got)
		}
	}
}

func FuzzPayload(f *testing.F) {
	for _, s := range []string{
		`{"id":"p","status":"succeeded","output":[1e999,"\ud800"]}`,
		`{"id":"p","input":{"b":1,"1":2,"b":3},"error":{"1":1}}`,
		`{"id":"p","created_at":"2026-01-01T00:00:00.123456+02:00"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := Parse(body)
		if err != nil {
			return
		}
		scan := NewScanner()
		for _, b := range body {
			_, _ = scan.Write([]byte{b})
		}
		if !scan.Complete() {
			t.Error("the scanner does not see the end")
		}
		if len(s.ID) < maxID && scan.ID() != s.ID || len(s.Status) < maxID && scan.Status() != s.Status {
			t.Errorf("the scanner reads id %q and status %q, the parser %q and %q", scan.ID(), scan.Status(), s.ID, s.Status)
		}
		for _, e := range []event.Set{event.Started, event.Completed, event.Failed} {
			p := s.Payload(e, at)
			if !json.Valid(p) {
				t.Fatalf("payload is not JSON: %s", p)
			}
			checkForm(t, p)
		}
	})
}
