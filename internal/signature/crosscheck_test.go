package signature_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

const npmFolder = "testdata/npm"

// question and reply are one line each of the exchange with crosscheck.mjs.
type question struct {
	Secret             string `json:"secret"`
	ID                 string `json:"id"`
	Timestamp          string `json:"timestamp"`
	Body               string `json:"body"`
	Signature          string `json:"signature"`
	ReplicateSignature string `json:"replicateSignature"`
}

type opinion struct {
	Verified  bool   `json:"verified"`
	Signature string `json:"signature"`
	Error     string `json:"error"`
}

type reply struct {
	Canonical        string   `json:"canonical"`
	Express          opinion  `json:"express"`
	Svix             *opinion `json:"svix"`
	StandardWebhooks *opinion `json:"standardwebhooks"`
	Replicate        *opinion `json:"replicate"`
}

// askNode hands the questions to crosscheck.mjs.
func askNode(t *testing.T, questions []question) []reply {
	t.Helper()
	node := testenv.NeedNode(t, npmFolder)
	var in, stderr bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, q := range questions {
		if err := enc.Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), node, "crosscheck.mjs")
	cmd.Dir, cmd.Stdin, cmd.Stderr = npmFolder, &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running crosscheck.mjs: %v\n%s", err, stderr.Bytes())
	}
	replies := make([]reply, 0, len(questions))
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var r reply
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		replies = append(replies, r)
	}
	if len(replies) != len(questions) {
		t.Fatalf("%d replies to %d questions", len(replies), len(questions))
	}
	return replies
}

// crossBodies are valid JSON; where the ECMAScript form differs from the text
// a verifier that parses first sees other bytes than were sent.
var crossBodies = map[string]string{
	"official":              officialBody,
	"empty object":          `{}`,
	"compact":               `{"id":"abc","status":"succeeded","output":["https://example.com/a.png"]}`,
	"pretty-printed":        "{\r\n  \"id\": \"abc\",\n\t\"list\": [ 1, 2 ]\n}\n",
	"unicode":               `{"prompt":"zażółć 東京 🦊 é"}`,
	"escaped unicode":       `{"prompt":"\u00e9\ud83e\udd8a\/"}`,
	"lone surrogates":       `{"a":"\ud800","b":"x\udfffy","c":"\udc00\ud800"}`,
	"line separators":       "{\"a\":\"\u2028\u2029\",\"b\":\"\\u2028\"}",
	"big numbers":           `{"a":12345678901234567890,"b":1e21,"c":1E400,"d":-0,"e":0.1e-6,"f":9007199254740993}`,
	"integer-like keys":     `{"b":1,"2":2,"1":3,"b":4}`,
	"prototype key":         `{"__proto__":{"x":1},"constructor":2}`,
	"control characters":    `{"a":"\u0000\b\f\n\r\t\u001f\u007f"}`,
	"byte-order mark":       "{\"a\":\"\ufeff\"}",
	"HTML characters":       `{"a":"<script>&amp;</script>"}`,
	"nested and empty":      `{"a":[[],{},[null,true,false,""]]}`,
	"trailing white space":  "{\"a\":1}  \n",
	"full stops and digits": `{"a":"1614265330.1614265330."}`,
	"large":                 `{"logs":"` + strings.Repeat("0123456789 é\\n", 20000) + `"}`,
}

func TestIndependentImplementations(t *testing.T) {
	// The libraries compare timestamps with the clock, so this is now.
	at := time.Now()
	timestamp := strconv.FormatInt(at.Unix(), 10)
	rotated := secret(t, whsec(32, 0x77))
	texts := map[string]string{
		"whsec 24":           officialSecret,
		"whsec 16":           whsec(16, 0xff),
		"whsec 64":           whsec(64, 0x3e),
		"whsec unpadded":     strings.TrimRight(whsec(32, 0xfb), "="),
		"whsec over a block": whsec(100, 0x41),
		"ordinary":           plainSecret,
		"ordinary not ASCII": "geheimnisvoll süßes Wort 🔑",
	}
	type pair struct{ secret, body string }
	var pairs []pair
	var questions []question
	for secretName, text := range texts {
		for bodyName, body := range crossBodies {
			h := make(http.Header)
			signature.Sign(h, []signature.Secret{secret(t, text), rotated}, officialID, at, []byte(body))
			q := question{text, officialID, timestamp, body, h.Get("Webhook-Signature"), h.Get("X-Replicate-Signature")}
			pairs = append(pairs, pair{secretName, bodyName})
			questions = append(questions, q)
		}
	}
	// Every message a second time with another body: nobody may verify that.
	n := len(questions)
	for _, q := range questions[:n:n] {
		q.Body = `{"altered":true,"was":` + q.Body + `}`
		questions = append(questions, q)
	}
	replies := askNode(t, questions)
	for i, p := range pairs {
		t.Run(p.secret+"/"+p.body, func(t *testing.T) {
			compare(t, questions[i], replies[i])
		})
		t.Run("altered/"+p.secret+"/"+p.body, func(t *testing.T) {
			for name, o := range opinions(replies[n+i]) {
				if o.Verified {
					t.Errorf("%s verifies an altered body", name)
				}
			}
			q := questions[n+i]
			h := headers("x-replicate-signature: " + q.ReplicateSignature)
			if strings.HasPrefix(q.Secret, "whsec_") {
				h = headers(standard(q.ID, q.Timestamp, q.Signature)...)
			}
			canonical := func() []byte { return []byte(replies[n+i].Canonical) }
			if _, err := verify(t, h, both, []signature.Secret{secret(t, q.Secret)}, q.Body, canonical); err == nil {
				t.Error("an altered body verifies here")
			}
		})
	}
}

// opinions returns what the libraries said, express among them.
func opinions(r reply) map[string]opinion {
	m := map[string]opinion{"express": r.Express}
	for name, o := range map[string]*opinion{
		"svix": r.Svix, "standardwebhooks": r.StandardWebhooks, "replicate": r.Replicate,
	} {
		if o != nil {
			m[name] = *o
		}
	}
	return m
}

// compare holds a message signed here against the libraries' opinions of it,
// and what they sign against Verify.
func compare(t *testing.T, q question, r reply) {
	own := secret(t, q.Secret)
	canonical := func() []byte { return []byte(r.Canonical) }

	// The express check parses first, so it knows our signature of the body
	// only where the body is in ECMAScript form.
	if same := r.Canonical == q.Body; r.Express.Verified != same {
		t.Errorf("express verifies: %v, body in ECMAScript form: %v", r.Express.Verified, same)
	}
	if got := own.SignReplicate([]byte(r.Canonical)); got != r.Express.Signature {
		t.Errorf("the ECMAScript form is signed %s, by express %s", got, r.Express.Signature)
	}
	h := headers("x-replicate-signature: " + r.Express.Signature)
	res, err := verify(t, h, both, []signature.Secret{own}, q.Body, canonical)
	if err != nil || string(res.Body) != r.Canonical || res.Canonicalised != (r.Canonical != q.Body) {
		t.Errorf("what express signs gives %v, canonicalised %v", err, res.Canonicalised)
	}

	if whsec := strings.HasPrefix(q.Secret, "whsec_"); len(opinions(r)) != map[bool]int{true: 4, false: 1}[whsec] {
		t.Fatalf("not every library was asked: %v", opinions(r))
	}
	for name, o := range opinions(r) {
		if name == "express" {
			continue
		}
		if !o.Verified {
			t.Errorf("%s refuses what was signed here: %s", name, o.Error)
		}
		if name == "replicate" {
			continue // it verifies only
		}
		if got := own.SignStandard(q.ID, q.Timestamp, []byte(q.Body)); got != o.Signature {
			t.Errorf("SignStandard gives %s, %s %s", got, name, o.Signature)
		}
		h := headers(standard(q.ID, q.Timestamp, o.Signature)...)
		res, err := verify(t, h, both, []signature.Secret{own}, q.Body, nil)
		if err != nil || string(res.Body) != q.Body {
			t.Errorf("what %s signs gives %v", name, err)
		}
	}
}
