package signature_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// FuzzParseHeaders holds that no headers panic, that every refusal has a
// listed reason, that nothing not accepted is claimed, that a claim keeps the
// limits, and that no claim verifies under a secret it was not made with.
func FuzzParseHeaders(f *testing.F) {
	f.Add("sha256="+hexDigest, officialID, officialTimestamp, officialSignature, "close", uint8(3))
	f.Add("", officialID, officialTimestamp, officialSignature, "", uint8(2))
	f.Add(hexDigest, "", "", "", "keep-alive, webhook_id", uint8(1))
	secrets := []signature.Secret{secret(f, "a secret that signed nothing"), secret(f, whsec(32, 0xa5))}
	f.Fuzz(func(t *testing.T, rep, id, timestamp, list, connection string, accept uint8) {
		h := make(http.Header)
		// A line end makes two headers of one, the only way to say so here.
		for name, text := range map[string]string{
			signature.HeaderReplicateSignature: rep, signature.HeaderID: id,
			signature.HeaderTimestamp: timestamp, signature.HeaderSignature: list, "Connection": connection,
		} {
			if text != "" {
				h[name] = strings.Split(text, "\n")
			}
		}
		before := h.Clone()
		c, err := signature.ParseHeaders(h, signature.Scheme(accept))
		for name, values := range before {
			if !slices.Equal(h[name], values) {
				t.Fatalf("%s was changed", name)
			}
		}
		if err != nil {
			var herr *signature.HeaderError
			if c != nil || !errors.As(err, &herr) || !slices.Contains(signature.Reasons(), herr.Reason()) {
				t.Fatalf("claim %v, error %v", c, err)
			}
			if herr.Header != "" && !signature.IsProtected(herr.Header) {
				t.Fatalf("error names %q", herr.Header)
			}
			return
		}
		if c.Schemes() == 0 || !signature.Scheme(accept).Has(c.Schemes()) || !both.Has(c.Schemes()) {
			t.Fatalf("claims %v of %v", c.Schemes(), signature.Scheme(accept))
		}
		if std := c.Schemes().Has(signature.Standard); std != (c.ID() != "") || std == c.SignedAt().IsZero() {
			t.Fatalf("%v has id %q at %v", c.Schemes(), c.ID(), c.SignedAt())
		}
		for token := range strings.SplitSeq(connection, ",") {
			if signature.IsProtected(strings.TrimSpace(token)) {
				t.Fatalf("Connection: %q passed", connection)
			}
		}
		if len(c.ID()) > 256 || c.SignedAt().Unix() < 0 && c.Schemes().Has(signature.Standard) || c.SignedAt().Unix() > 999999999999 {
			t.Fatalf("over a limit: %q at %v", c.ID(), c.SignedAt())
		}
		body := []byte(id)
		if _, err := c.Verify(secrets, body, func() []byte { return []byte(rep) }); !errors.Is(err, signature.ErrSignature) {
			t.Fatalf("a made-up claim verifies: %v", err)
		}
	})
}

// entries reads a webhook-signature value the plain way.
func entries(list string) (wellFormed []string, reason string) {
	fields := strings.Split(list, " ")
	if len(list) > 4096 || len(fields) > 32 {
		return nil, signature.ReasonOversized
	}
	for _, field := range fields {
		version, text, _ := strings.Cut(field, ",")
		sum, err := base64.StdEncoding.DecodeString(text)
		// Coding it again tells the one right spelling from the others.
		if version == "v1" && err == nil && len(sum) == 32 && base64.StdEncoding.EncodeToString(sum) == text {
			wellFormed = append(wellFormed, field)
		}
	}
	if len(wellFormed) == 0 {
		return nil, signature.ReasonMalformed
	}
	return wellFormed, ""
}

// FuzzStandardSignatureList compares the reading of webhook-signature with a
// plain second one, and holds that a list verifies exactly when the right
// entry is in it.
func FuzzStandardSignatureList(f *testing.F) {
	f.Add(officialSignature, uint8(0), officialBody)
	f.Add("v1a,AAAA "+officialSignature+" v2,x", uint8(1), officialBody)
	f.Add("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF=", uint8(2), officialBody)
	secrets := []signature.Secret{secret(f, plainSecret), secret(f, officialSecret)}
	// The count reaches the limits from a short text: the fuzzer spends its
	// time shortening long ones.
	f.Fuzz(func(t *testing.T, list string, more uint8, body string) {
		list += strings.Repeat(" "+list, int(more%40))
		check := func(list string) {
			want, wantReason := entries(list)
			c, err := signature.ParseHeaders(headers(standard(officialID, officialTimestamp, list)...), both)
			if got := reason(t, err); got != wantReason {
				t.Fatalf("reason = %q, want %q", got, wantReason)
			}
			if err != nil {
				return
			}
			right := secrets[1].SignStandard(officialID, officialTimestamp, []byte(body))
			_, err = c.Verify(secrets, []byte(body), nil)
			if (err == nil) != slices.Contains(want, right) {
				t.Fatalf("verifying %q gives %v", list, err)
			}
		}
		right := secrets[1].SignStandard(officialID, officialTimestamp, []byte(body))
		check(list)
		check(list + " " + right)
		check(right + " " + list)
		check(strings.Replace(list, " ", " "+right+" ", 1))
		check(list + right)
	})
}
