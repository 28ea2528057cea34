package signature_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// decodeEntry returns the digest of one entry of webhook-signature.
func decodeEntry(t testing.TB, entry string) []byte {
	t.Helper()
	text, ok := strings.CutPrefix(entry, "v1,")
	if !ok {
		t.Fatalf("entry %q is not of version 1", entry)
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// hmacHex computes a digest without the pool of the package.
func hmacHex(key, message string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(message))
	return hex.EncodeToString(m.Sum(nil))
}

func TestSignOfficialVector(t *testing.T) {
	s := secret(t, officialSecret)
	// Twice: the second time with a hash out of the pool.
	for range 2 {
		if got := s.SignStandard(officialID, officialTimestamp, []byte(officialBody)); got != officialSignature {
			t.Errorf("SignStandard = %q, want %q", got, officialSignature)
		}
	}
}

func TestSignReplicate(t *testing.T) {
	for _, text := range []string{officialSecret, plainSecret, whsec(64, 5), strings.Repeat("long", 40)} {
		s := secret(t, text)
		for _, body := range []string{"", officialBody, strings.Repeat("x", 55), strings.Repeat("x", 64), strings.Repeat("x", 100000)} {
			want := hmacHex(text, body)
			for range 2 {
				if got := s.SignReplicate([]byte(body)); got != want {
					t.Errorf("secret of %d, body of %d: %s, want %s", len(text), len(body), got, want)
				}
			}
		}
	}
}

func TestSignStandardParts(t *testing.T) {
	key := strings.Repeat("\x05", 64)
	s := secret(t, whsec(64, 5))
	for _, parts := range [][3]string{
		{"", "", ""}, {"a", "1", "{}"}, {strings.Repeat("i", 1000), strings.Repeat("1", 1000), "body"}, {"a", "1", "{}"},
	} {
		got := hex.EncodeToString(decodeEntry(t, s.SignStandard(parts[0], parts[1], []byte(parts[2]))))
		if want := hmacHex(key, strings.Join(parts[:], ".")); got != want {
			t.Errorf("SignStandard(%.10q) = %s, want %s", parts, got, want)
		}
	}
	if got := secret(t, plainSecret).SignStandard("a", "1", nil); got != "" {
		t.Errorf("an ordinary secret signs %q", got)
	}
}

func TestSign(t *testing.T) {
	plain, one, two := secret(t, plainSecret), secret(t, officialSecret), secret(t, whsec(32, 1))
	body, at := []byte(officialBody), time.Unix(1614265330, 999)
	entry := func(s signature.Secret) string { return s.SignStandard(officialID, officialTimestamp, body) }
	tests := []struct {
		name    string
		secrets []signature.Secret
		rep     string
		list    string
	}{
		{"no secret", nil, "", ""},
		{"ordinary secret", []signature.Secret{plain}, plain.SignReplicate(body), ""},
		{"whsec_ secret", []signature.Secret{one}, one.SignReplicate(body), officialSignature},
		{"rotation", []signature.Secret{two, one}, two.SignReplicate(body), entry(two) + " " + entry(one)},
		{"ordinary one is newest", []signature.Secret{plain, one, two}, plain.SignReplicate(body), entry(one) + " " + entry(two)},
		{"ordinary one is oldest", []signature.Secret{one, plain}, one.SignReplicate(body), entry(one)},
		{"zero secret", []signature.Secret{{}}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := headers(append(standard("stale", "1", "stale"), "x-replicate-signature: stale", "x-replicate-signature: twice", "other: kept")...)
			signature.Sign(h, tt.secrets, officialID, at, body)
			want := map[string]string{"Other": "kept"}
			if tt.rep != "" {
				want[signature.HeaderReplicateSignature] = tt.rep
			}
			if tt.list != "" {
				want[signature.HeaderID] = officialID
				want[signature.HeaderTimestamp] = officialTimestamp
				want[signature.HeaderSignature] = tt.list
			}
			if len(h) != len(want) {
				t.Errorf("headers are %v", h)
			}
			for name, value := range want {
				if len(h[name]) != 1 || h[name][0] != value {
					t.Errorf("%s is %q, want %q", name, h[name], value)
				}
			}
			if len(tt.secrets) == 0 || tt.rep == "" {
				return
			}
			r, err := verify(t, h, both, tt.secrets, officialBody, nil)
			if err != nil || r.Schemes.Has(signature.Standard) != (tt.list != "") {
				t.Errorf("what was signed verifies as %v, %v", r.Schemes, err)
			}
		})
	}
}

func TestScheme(t *testing.T) {
	for s, want := range map[signature.Scheme]string{
		0: "none", signature.Replicate: "replicate", signature.Standard: "standard",
		both: "replicate+standard", 0xfc: "none", 0xff: "replicate+standard",
	} {
		if got := s.String(); got != want {
			t.Errorf("Scheme(%d) = %q, want %q", uint8(s), got, want)
		}
	}
	if both.Has(0) || !both.Has(signature.Standard) || !both.Has(both) || signature.Replicate.Has(both) {
		t.Error("Has is wrong")
	}
}

func TestHeaderNamesAreCanonical(t *testing.T) {
	for _, name := range []string{
		signature.HeaderReplicateSignature, signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature,
	} {
		if http.CanonicalHeaderKey(name) != name || !signature.IsProtected(name) {
			t.Errorf("%q is not canonical or not protected", name)
		}
	}
}
