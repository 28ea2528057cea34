package signature_test

import (
	"encoding/hex"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// verify parses and verifies; a header error fails the test.
func verify(t *testing.T, h http.Header, accept signature.Scheme, secrets []signature.Secret, raw string, canonical func() []byte) (signature.Result, error) {
	t.Helper()
	c, err := signature.ParseHeaders(h, accept)
	if err != nil {
		t.Fatalf("ParseHeaders: %v", err)
	}
	r, err := c.Verify(secrets, []byte(raw), canonical)
	if err != nil {
		if !errors.Is(err, signature.ErrSignature) {
			t.Fatalf("error is %v", err)
		}
		if r.Schemes != 0 || r.ID != "" || !r.SignedAt.IsZero() || r.Body != nil || r.ReplicateBody != nil || r.Canonicalised {
			t.Fatalf("a failure gives %+v", r)
		}
	}
	return r, err
}

func TestVerifyOfficialVector(t *testing.T) {
	h := headers(standard(officialID, officialTimestamp, officialSignature)...)
	r, err := verify(t, h, both, []signature.Secret{secret(t, officialSecret)}, officialBody, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Schemes != signature.Standard || r.ID != officialID || r.SignedAt.Unix() != 1614265330 ||
		string(r.Body) != officialBody || r.ReplicateBody != nil || r.Canonicalised {
		t.Errorf("result is %+v", r)
	}
}

// flip changes one base64 or hexadecimal digit to another.
func flip(text string, i int) string {
	c := byte('0')
	if text[i] == c {
		c = '1'
	}
	return text[:i] + string(c) + text[i+1:]
}

func TestVerifyWrong(t *testing.T) {
	s := []signature.Secret{secret(t, officialSecret)}
	good := s[0].SignReplicate([]byte(officialBody))
	std := func(id, ts, sig string) http.Header { return headers(standard(id, ts, sig)...) }
	rep := func(sig string) http.Header { return headers("x-replicate-signature: " + sig) }
	keyedByBytes, err := signature.ParseSecret("\x31\xf2\x90\xaf\xda\xfc\x18\xa6\x2a\xad\x3c\x23\x50\x3f\x0b\x20\xb3\xc8\xa3\x62\xda\x2d\xa4\xb0")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		h       http.Header
		secrets []signature.Secret
		body    string
	}{
		{"replicate: first digit", rep(flip(good, 0)), s, officialBody},
		{"replicate: last digit", rep(flip(good, 63)), s, officialBody},
		{"replicate: other body", rep(good), s, officialBody + " "},
		{"replicate: empty body", rep(good), s, ""},
		{"replicate: other secret", rep(good), []signature.Secret{secret(t, plainSecret)}, officialBody},
		{"replicate: no secrets", rep(good), nil, officialBody},
		{"replicate: zero secret", rep(good), make([]signature.Secret, 3), officialBody},
		{"replicate: keyed with the decoded bytes", rep(keyedByBytes.SignReplicate([]byte(officialBody))), s, officialBody},
		{"replicate: digest of the standard scheme", rep(base64ToHex(t, officialSignature)), s, officialBody},
		{"standard: first character", std(officialID, officialTimestamp, flip(officialSignature, 3)), s, officialBody},
		{"standard: last character", std(officialID, officialTimestamp, flip(officialSignature, 44)), s, officialBody},
		{"standard: other body", std(officialID, officialTimestamp, officialSignature), s, officialBody + " "},
		{"standard: other id", std("msg_other", officialTimestamp, officialSignature), s, officialBody},
		{"standard: other timestamp", std(officialID, "1614265331", officialSignature), s, officialBody},
		{"standard: timestamp written otherwise", std(officialID, "01614265330", officialSignature), s, officialBody},
		{"standard: other secret", std(officialID, officialTimestamp, officialSignature), []signature.Secret{secret(t, whsec(24, 1))}, officialBody},
		{"standard: ordinary secret", std(officialID, officialTimestamp, officialSignature), []signature.Secret{secret(t, plainSecret)}, officialBody},
		{"standard: no secrets", std(officialID, officialTimestamp, officialSignature), nil, officialBody},
		{"standard: zero secret", std(officialID, officialTimestamp, officialSignature), make([]signature.Secret, 3), officialBody},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := verify(t, tt.h, both, tt.secrets, tt.body, nil); err == nil {
				t.Errorf("verified as %v", r.Schemes)
			}
		})
	}
}

func TestVerifyNothingClaimed(t *testing.T) {
	s := []signature.Secret{secret(t, officialSecret)}
	var absent *signature.Claim
	for name, c := range map[string]*signature.Claim{"zero": {}, "nil": absent} {
		if r, err := c.Verify(s, []byte("{}"), nil); !errors.Is(err, signature.ErrSignature) || r.Schemes != 0 {
			t.Errorf("a %s claim gives %+v, %v", name, r, err)
		}
	}
}

func TestVerifyManySecrets(t *testing.T) {
	texts := []string{plainSecret, whsec(32, 1), "another ordinary secret", whsec(24, 2), officialSecret}
	var all []signature.Secret
	for _, text := range texts {
		all = append(all, secret(t, text))
	}
	body := []byte(officialBody)
	for i, s := range all {
		t.Run("replicate "+texts[i], func(t *testing.T) {
			h := headers("x-replicate-signature: sha256=" + s.SignReplicate(body))
			if _, err := verify(t, h, both, all, officialBody, nil); err != nil {
				t.Error("a listed secret does not verify")
			}
			others := append(append([]signature.Secret{}, all[:i]...), all[i+1:]...)
			if _, err := verify(t, h, both, others, officialBody, nil); err == nil {
				t.Error("an unlisted secret verifies")
			}
			if _, err := verify(t, h, both, []signature.Secret{s, s, s}, officialBody, nil); err != nil {
				t.Error("a secret listed three times does not verify")
			}
		})
		if !s.Standard() {
			continue
		}
		t.Run("standard "+texts[i], func(t *testing.T) {
			good := s.SignStandard("a", "1", body)
			unknown := secret(t, whsec(32, 9)).SignStandard("a", "1", body)
			for _, list := range []string{
				good, unknown + " " + good, good + " " + unknown, "v1a,x " + unknown + " " + unknown + " " + good,
				good + " " + good, strings.Repeat(unknown+" ", 31) + good,
			} {
				if _, err := verify(t, headers(standard("a", "1", list)...), both, all, officialBody, nil); err != nil {
					t.Errorf("list %q does not verify", list)
				}
			}
			if _, err := verify(t, headers(standard("a", "1", unknown+" "+unknown)...), both, all, officialBody, nil); err == nil {
				t.Error("an unlisted secret verifies")
			}
		})
	}
}

func TestVerifyBothSchemes(t *testing.T) {
	first, second := secret(t, officialSecret), secret(t, whsec(32, 3))
	secrets := []signature.Secret{first, second}
	body := []byte(officialBody)
	std, otherStd := first.SignStandard("a", "1", body), secret(t, whsec(32, 4)).SignStandard("a", "1", body)
	rep, otherRep := first.SignReplicate(body), secret(t, plainSecret).SignReplicate(body)
	tests := []struct {
		name     string
		std, rep string
		accept   signature.Scheme
		want     signature.Scheme
	}{
		{"both right", std, rep, both, both},
		{"each by another secret", std, second.SignReplicate(body), both, both},
		{"replicate wrong", std, otherRep, both, 0},
		{"standard wrong", otherStd, rep, both, 0},
		{"both wrong", otherStd, otherRep, both, 0},
		{"wrong replicate not accepted", std, otherRep, signature.Standard, signature.Standard},
		{"wrong standard not accepted", otherStd, rep, signature.Replicate, signature.Replicate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := headers(append(standard("a", "1", tt.std), "x-replicate-signature: "+tt.rep)...)
			r, err := verify(t, h, tt.accept, secrets, officialBody, nil)
			if (err == nil) != (tt.want != 0) || r.Schemes != tt.want {
				t.Errorf("verified %v (%v), want %v", r.Schemes, err, tt.want)
			}
		})
	}
}

func TestVerifyCanonical(t *testing.T) {
	const raw, form = "{ \"a\": 1.0 }", `{"a":1}`
	s := secret(t, officialSecret)
	stdRaw, stdForm := s.SignStandard("a", "1", []byte(raw)), s.SignStandard("a", "1", []byte(form))
	repRaw, repForm := s.SignReplicate([]byte(raw)), s.SignReplicate([]byte(form))
	wrong := s.SignReplicate([]byte("other"))
	tests := []struct {
		name          string
		std, rep      string
		form          string // what canonical gives, "" for nil
		calls         int
		body          string // "" for a refusal
		replicateBody string
		canonicalised bool
	}{
		{"raw is tried first", "", repRaw, form, 0, raw, raw, false},
		{"canonical form", "", repForm, form, 1, form, form, true},
		{"neither form", "", wrong, form, 1, "", "", false},
		{"no canonical form", "", repForm, "", 1, "", "", false},
		{"canonical form is the raw body", "", wrong, raw, 1, "", "", false},
		{"standard alone needs none", stdRaw, "", form, 0, raw, "", false},
		{"standard never takes the canonical form", stdForm, "", form, 0, "", "", false},
		{"both over raw", stdRaw, repRaw, form, 0, raw, raw, false},
		{"standard over raw, replicate over canonical", stdRaw, repForm, form, 1, raw, form, false},
		{"wrong standard settles it", stdForm, repForm, form, 0, "", "", false},
		{"standard over raw, replicate wrong", stdRaw, wrong, form, 1, "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := make(http.Header)
			if tt.std != "" {
				h = headers(standard("a", "1", tt.std)...)
			}
			if tt.rep != "" {
				h.Set("X-Replicate-Signature", tt.rep)
			}
			calls := 0
			r, err := verify(t, h, both, []signature.Secret{s, secret(t, plainSecret)}, raw, func() []byte {
				calls++
				if tt.form == "" {
					return nil
				}
				return []byte(tt.form)
			})
			if calls != tt.calls {
				t.Errorf("canonical was called %d times, want %d", calls, tt.calls)
			}
			if (err == nil) != (tt.body != "") || string(r.Body) != tt.body {
				t.Errorf("body = %q (%v), want %q", r.Body, err, tt.body)
			}
			if string(r.ReplicateBody) != tt.replicateBody || (r.ReplicateBody != nil) != (tt.replicateBody != "") {
				t.Errorf("replicate body = %q, want %q", r.ReplicateBody, tt.replicateBody)
			}
			if r.Canonicalised != tt.canonicalised {
				t.Errorf("Canonicalised = %v, want %v", r.Canonicalised, tt.canonicalised)
			}
		})
	}
	t.Run("nil function", func(t *testing.T) {
		if _, err := verify(t, headers("x-replicate-signature: "+repForm), both, []signature.Secret{s}, raw, nil); err == nil {
			t.Error("verified without a canonical form")
		}
	})
	t.Run("empty body", func(t *testing.T) {
		c, err := signature.ParseHeaders(headers("x-replicate-signature: "+s.SignReplicate(nil)), both)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Verify([]signature.Secret{s}, nil, nil)
		if err != nil || r.ReplicateBody == nil || r.Body == nil {
			t.Errorf("result is %+v, %v", r, err)
		}
	})
	t.Run("no copy is made", func(t *testing.T) {
		c, err := signature.ParseHeaders(headers("x-replicate-signature: "+repRaw), both)
		if err != nil {
			t.Fatal(err)
		}
		in := []byte(raw)
		r, err := c.Verify([]signature.Secret{s}, in, nil)
		if err != nil || &r.Body[0] != &in[0] {
			t.Errorf("body is a copy (%v)", err)
		}
	})
}

// TestVerifySigners: the result names the secrets that made the standard
// signatures, which are those to sign with again.
func TestVerifySigners(t *testing.T) {
	a, b := secret(t, officialSecret), secret(t, whsec(32, 0x55))
	secrets := []signature.Secret{secret(t, plainSecret), a, b}
	last := secret(t, whsec(32, 0x66))
	many := append(slices.Repeat([]signature.Secret{a}, 70), last)
	for name, test := range map[string]struct {
		signers []signature.Secret
		scheme  signature.Scheme
		secrets []signature.Secret
		want    []signature.Fingerprint
	}{
		"the second":         {[]signature.Secret{a}, both, secrets, []signature.Fingerprint{a.Fingerprint()}},
		"the third":          {[]signature.Secret{b}, both, secrets, []signature.Fingerprint{b.Fingerprint()}},
		"two":                {[]signature.Secret{b, a}, both, secrets, []signature.Fingerprint{a.Fingerprint(), b.Fingerprint()}},
		"not standard alone": {[]signature.Secret{a}, signature.Replicate, secrets, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := make(http.Header)
			signature.Sign(h, test.signers, officialID, time.Unix(1614265330, 0), []byte(officialBody))
			r, err := verify(t, h, test.scheme, test.secrets, officialBody, nil)
			if got := r.Signers(); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("signers are %x, %v; want %x", got, err, test.want)
			}
		})
	}
	h := make(http.Header)
	signature.Sign(h, []signature.Secret{last}, officialID, time.Unix(1614265330, 0), []byte(officialBody))
	if r, err := verify(t, h, both, many, officialBody, nil); err != nil || !slices.Contains(r.Signers(), last.Fingerprint()) {
		t.Errorf("the last of %d secrets is not among the signers: %v", len(many), err)
	}
}

func TestVerifyConcurrently(t *testing.T) {
	secrets := []signature.Secret{secret(t, plainSecret), secret(t, officialSecret)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := []byte(strings.Repeat("x", 100*i))
			for range 200 {
				h := make(http.Header)
				signature.Sign(h, secrets, "id", time.Unix(int64(i), 0), body)
				c, err := signature.ParseHeaders(h, both)
				if err != nil {
					t.Error(err)
					return
				}
				if r, err := c.Verify(secrets, body, nil); err != nil || r.Schemes != both {
					t.Errorf("verified %v, %v", r.Schemes, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestFresh(t *testing.T) {
	now := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	far := time.Unix(999999999999, 0)
	// The ends of what a time.Time can represent: it counts from year 1.
	first, last := time.Unix(math.MinInt64, 0), time.Unix(math.MaxInt64-62135596800, 0)
	tests := []struct {
		name      string
		signed    time.Time
		now       time.Time
		tolerance time.Duration
		want      bool
	}{
		{"now", now, now, 5 * time.Minute, true},
		{"now without tolerance", now, now, 0, true},
		{"past, at the limit", now.Add(-5 * time.Minute), now, 5 * time.Minute, true},
		{"past, over it", now.Add(-5*time.Minute - 1), now, 5 * time.Minute, false},
		{"future, at the limit", now.Add(5 * time.Minute), now, 5 * time.Minute, true},
		{"future, over it", now.Add(5*time.Minute + 1), now, 5 * time.Minute, false},
		{"other zone", now.In(time.FixedZone("", 3600)), now, 0, true},
		{"negative tolerance", now, now, -1, false},
		{"least tolerance", now, now, math.MinInt64, false},
		{"zero time", time.Time{}, now, math.MaxInt64, false},
		{"zero time at zero time", time.Time{}, time.Time{}, time.Hour, false},
		{"epoch", time.Unix(0, 0), now, 5 * time.Minute, false},
		{"epoch under the greatest tolerance", time.Unix(0, 0), now, math.MaxInt64, true},
		{"twelve nines", far, now, 5 * time.Minute, false},
		{"twelve nines under the greatest tolerance", far, now, math.MaxInt64, false},
		{"now is the far one", now, far, math.MaxInt64, false},
		{"last time there is", last, now, math.MaxInt64, false},
		{"first time there is", first, now, math.MaxInt64, false},
		{"first and last", first, last, math.MaxInt64, false},
		{"last and first", last, first, math.MaxInt64, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := signature.Fresh(tt.signed, tt.now, tt.tolerance); got != tt.want {
				t.Errorf("Fresh = %v, want %v", got, tt.want)
			}
		})
	}
}

func base64ToHex(t *testing.T, entry string) string {
	t.Helper()
	return hex.EncodeToString(decodeEntry(t, entry))
}
