package signature_test

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

const (
	both = signature.Replicate | signature.Standard

	hexDigest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// headers makes a header of "Name: value" lines; a line may come twice.
func headers(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// standard returns the three standard headers.
func standard(id, timestamp, list string) []string {
	return []string{"webhook-id: " + id, "webhook-timestamp: " + timestamp, "webhook-signature: " + list}
}

func reason(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var herr *signature.HeaderError
	if !errors.As(err, &herr) {
		t.Fatalf("error is a %T", err)
	}
	if !slices.Contains(signature.Reasons(), herr.Reason()) {
		t.Fatalf("reason %q is not listed", herr.Reason())
	}
	return herr.Reason()
}

func TestParseHeaders(t *testing.T) {
	ok := standard(officialID, officialTimestamp, officialSignature)
	rep := "x-replicate-signature: " + hexDigest
	with := func(lines []string, more ...string) http.Header { return headers(slices.Concat(lines, more)...) }
	without := func(name string) http.Header { h := headers(ok...); h.Del(name); return h }
	tests := []struct {
		name   string
		h      http.Header
		accept signature.Scheme
		want   signature.Scheme
		reason string
	}{
		{"nothing", headers(), both, 0, "missing"},
		{"nil header", nil, both, 0, "missing"},
		{"nothing accepted", with(ok, rep), 0, 0, "scheme"},
		{"unknown scheme accepted", with(ok, rep), 0xf0, 0, "scheme"},
		{"nil values", http.Header{"X-Replicate-Signature": nil}, both, 0, "missing"},
		{"replicate", headers(rep), both, signature.Replicate, ""},
		{"standard", with(ok), both, signature.Standard, ""},
		{"both", with(ok, rep), both, both, ""},
		{"replicate only accepted", with(ok, rep), signature.Replicate, signature.Replicate, ""},
		{"standard only accepted", with(ok, rep), signature.Standard, signature.Standard, ""},
		{"replicate not accepted", headers(rep), signature.Standard, 0, "scheme"},
		{"standard not accepted", with(ok), signature.Replicate, 0, "scheme"},
		{"id alone not accepted", headers("webhook-id: a"), signature.Replicate, 0, "missing"},
		{"malformed replicate not accepted", with(ok, "x-replicate-signature: no"), signature.Standard, signature.Standard, ""},
		{"duplicated replicate not accepted", with(ok, rep, rep), signature.Standard, signature.Standard, ""},
		{"malformed standard not accepted", headers(rep, "webhook-id: a b"), signature.Replicate, signature.Replicate, ""},
		{"duplicated standard not accepted", with(ok, slices.Concat(ok, []string{rep})...), signature.Replicate, signature.Replicate, ""},

		{"sha256 prefix", headers("x-replicate-signature: sha256=" + hexDigest), both, signature.Replicate, ""},
		{"sha256 prefix twice", headers("x-replicate-signature: sha256=sha256=" + hexDigest), both, 0, "malformed"},
		{"sha256 prefix in upper case", headers("x-replicate-signature: SHA256=" + hexDigest), both, 0, "malformed"},
		{"sha512 prefix", headers("x-replicate-signature: sha512=" + hexDigest), both, 0, "malformed"},
		{"upper-case digits", headers("x-replicate-signature: " + strings.ToUpper(hexDigest)), both, 0, "malformed"},
		{"one upper-case digit", headers("x-replicate-signature: " + hexDigest[:63] + "F"), both, 0, "malformed"},
		{"not hexadecimal", headers("x-replicate-signature: " + hexDigest[:63] + "g"), both, 0, "malformed"},
		{"63 digits", headers("x-replicate-signature: " + hexDigest[1:]), both, 0, "malformed"},
		{"65 digits", headers("x-replicate-signature: 0" + hexDigest), both, 0, "malformed"},
		{"128 digits", headers("x-replicate-signature: " + hexDigest + hexDigest), both, 0, "malformed"},
		{"129 digits", headers("x-replicate-signature: 0" + hexDigest + hexDigest), both, 0, "oversized"},
		{"empty replicate", headers("x-replicate-signature: "), both, 0, "malformed"},
		{"space around replicate", headers("x-replicate-signature:  " + hexDigest), both, 0, "malformed"},
		{"two replicates", headers(rep, rep), both, 0, "duplicated"},
		{"two replicates on one line", headers(rep + ", " + hexDigest), both, 0, "oversized"},
		{"good standard and malformed replicate", with(ok, "x-replicate-signature: no"), both, 0, "malformed"},

		{"no id", without("webhook-id"), both, 0, "malformed"},
		{"no timestamp", without("webhook-timestamp"), both, 0, "malformed"},
		{"no signature", without("webhook-signature"), both, 0, "malformed"},
		{"id alone beside a good replicate", headers(rep, "webhook-id: a"), both, 0, "malformed"},
		{"two ids", with(ok, "webhook-id: b"), both, 0, "duplicated"},
		{"two timestamps", with(ok, "webhook-timestamp: 1"), both, 0, "duplicated"},
		{"two signatures", with(ok, ok[2]), both, 0, "duplicated"},
		{"empty id", headers(standard("", officialTimestamp, officialSignature)...), both, 0, "malformed"},
		{"id with a space", headers(standard("a b", officialTimestamp, officialSignature)...), both, 0, "malformed"},
		{"id with a tab", headers(standard("a\tb", officialTimestamp, officialSignature)...), both, 0, "malformed"},
		{"id with DEL", headers(standard("a\x7f", officialTimestamp, officialSignature)...), both, 0, "malformed"},
		{"id not ASCII", headers(standard("é", officialTimestamp, officialSignature)...), both, 0, "malformed"},
		{"id of all printable kinds", headers(standard("!~.,\"'/", officialTimestamp, officialSignature)...), both, signature.Standard, ""},
		{"id of 256", headers(standard(strings.Repeat("a", 256), officialTimestamp, officialSignature)...), both, signature.Standard, ""},
		{"id of 257", headers(standard(strings.Repeat("a", 257), officialTimestamp, officialSignature)...), both, 0, "oversized"},
		{"timestamp of 1 digit", headers(standard("a", "0", officialSignature)...), both, signature.Standard, ""},
		{"timestamp of 12 digits", headers(standard("a", "999999999999", officialSignature)...), both, signature.Standard, ""},
		{"timestamp of 13 digits", headers(standard("a", "1614265330000", officialSignature)...), both, 0, "milliseconds"},
		{"timestamp in nanoseconds", headers(standard("a", "1614265330000000000", officialSignature)...), both, 0, "milliseconds"},
		{"timestamp of 64 digits", headers(standard("a", strings.Repeat("1", 64), officialSignature)...), both, 0, "milliseconds"},
		{"timestamp of 65 digits", headers(standard("a", strings.Repeat("1", 65), officialSignature)...), both, 0, "oversized"},
		{"timestamp of RFC 3339", headers(standard("a", "2021-02-25T15:02:10Z", officialSignature)...), both, 0, "timestamp"},
		{"timestamp of Python's isoformat", headers(standard("a", "2021-02-25T15:02:10.123456", officialSignature)...), both, 0, "timestamp"},
		{"timestamp in milliseconds with a fraction", headers(standard("a", "1614265330000.5", officialSignature)...), both, 0, "timestamp"},
		{"timestamp with a sign", headers(standard("a", "+1614265330", officialSignature)...), both, 0, "timestamp"},
		{"negative timestamp", headers(standard("a", "-1", officialSignature)...), both, 0, "timestamp"},
		{"timestamp with an underscore", headers(standard("a", "16_14", officialSignature)...), both, 0, "timestamp"},
		{"hexadecimal timestamp", headers(standard("a", "0x10", officialSignature)...), both, 0, "timestamp"},
		{"fractional timestamp", headers(standard("a", "1614265330.5", officialSignature)...), both, 0, "timestamp"},
		{"empty timestamp", headers(standard("a", "", officialSignature)...), both, 0, "malformed"},
		{"empty signature", headers(standard("a", "1", "")...), both, 0, "malformed"},
		{"4096 bytes", headers(standard("a", "1", officialSignature+" "+strings.Repeat("x", 4096-48))...), both, signature.Standard, ""},
		{"4097 bytes", headers(standard("a", "1", officialSignature+" "+strings.Repeat("x", 4097-48))...), both, 0, "oversized"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := signature.ParseHeaders(tt.h, tt.accept)
			if got := reason(t, err); got != tt.reason {
				t.Fatalf("reason = %q, want %q (%v)", got, tt.reason, err)
			}
			if (c == nil) != (err != nil) {
				t.Fatalf("claim %v with error %v", c, err)
			}
			if c != nil && c.Schemes() != tt.want {
				t.Errorf("Schemes() = %v, want %v", c.Schemes(), tt.want)
			}
		})
	}
}

func TestStandardSignatureList(t *testing.T) {
	const v1 = officialSignature
	tests := []struct{ name, list, reason string }{
		{"one", v1, ""},
		{"two", v1 + " " + v1, ""},
		{"32", strings.Repeat(v1+" ", 31) + v1, ""},
		{"33", strings.Repeat(v1+" ", 32) + v1, "oversized"},
		{"32 unknown ones and a good one", strings.Repeat("v2,x ", 32) + v1, "oversized"},
		{"other version first", "v1a,AAAA " + v1, ""},
		{"other version behind", v1 + " v2,AAAA", ""},
		{"other version alone", "v1a" + v1[2:], "malformed"},
		{"no version", v1[3:], "malformed"},
		{"upper-case version", "V1" + v1[2:], "malformed"},
		{"spaces doubled and around", " " + v1 + "  " + v1 + " ", ""},
		{"spaces alone", "   ", "malformed"},
		{"tab between", v1 + "\t" + v1, "malformed"},
		{"comma between", v1 + "," + v1, "malformed"},
		{"truncated", v1[:len(v1)-1], "malformed"},
		{"truncated beside a good one", v1[:20] + " " + v1, ""},
		{"31 bytes", "v1," + strings.Repeat("A", 42) + "==", "malformed"},
		{"33 bytes", "v1," + strings.Repeat("A", 44), "malformed"},
		{"bits left over", "v1," + strings.Repeat("A", 42) + "B=", "malformed"},
		{"URL alphabet", "v1,g0hM9SsE-OTPJTGt_tmIKtSyZlE3uFJELVlNIOLJ1OE=", "malformed"},
		{"line end inside", v1[:20] + "\n" + v1[21:], "malformed"},
		{"empty digest", "v1,", "malformed"},
		{"hexadecimal digest", "v1," + hexDigest, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := signature.ParseHeaders(headers(standard("a", "1", tt.list)...), both)
			if got := reason(t, err); got != tt.reason {
				t.Errorf("reason = %q, want %q", got, tt.reason)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	c, err := signature.ParseHeaders(headers(standard("a", "0001614265330"[1:], officialSignature)...), both)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(1614265330, 0); c.ID() != "a" || !c.SignedAt().Equal(want) || c.SignedAt().Location() != time.UTC {
		t.Errorf("claim has %q at %v", c.ID(), c.SignedAt())
	}
	c, err = signature.ParseHeaders(headers("x-replicate-signature: "+hexDigest), both)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID() != "" || !c.SignedAt().IsZero() {
		t.Errorf("replicate claim has %q at %v", c.ID(), c.SignedAt())
	}
}

func TestHeaderErrorsHoldNoRequestText(t *testing.T) {
	const mark = "MARKMARK"
	for _, lines := range [][]string{
		{"x-replicate-signature: " + mark},
		{"x-replicate-signature: " + mark, "x-replicate-signature: " + mark},
		{"x-replicate-signature: " + strings.Repeat(mark, 20)},
		standard("a "+mark, "1", officialSignature),
		standard("a", mark, officialSignature),
		standard("a", "1", mark),
		standard("a", strings.Repeat("1", 13), mark),
		{"connection: " + mark + ", WEBHOOK_ID"},
	} {
		_, err := signature.ParseHeaders(headers(lines...), both)
		if err == nil || strings.Contains(err.Error(), mark) || strings.Contains(err.Error(), "WEBHOOK_ID") {
			t.Errorf("%s gives %v", strconv.Quote(lines[0]), err)
		}
	}
	if _, err := signature.ParseHeaders(nil, both); err.Error() != "reading signature headers: no accepted signature is present" {
		t.Errorf("missing reads %q", err)
	}
}

func TestConnection(t *testing.T) {
	rep := "x-replicate-signature: " + hexDigest
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"close", []string{rep, "connection: close"}, ""},
		{"unrelated list", []string{rep, "connection: keep-alive, Upgrade,, x-other"}, ""},
		{"longer name", []string{rep, "connection: webhook-ids"}, ""},
		{"plain", []string{rep, "connection: webhook-id"}, "connection"},
		{"case", []string{rep, "connection: X-REPLICATE-SIGNATURE"}, "connection"},
		{"list", []string{rep, "connection: close,\tContent-Type ,x"}, "connection"},
		{"second header", []string{rep, "connection: close", "connection: content-length"}, "connection"},
		{"underscores", []string{rep, "connection: x_replicate_verified"}, "connection"},
		{"full stops", []string{rep, "connection: X.Replicate-Prediction_Id"}, "connection"},
		{"scheme not accepted", []string{rep, "connection: webhook-signature"}, "connection"},
		{"before missing", []string{"connection: content-encoding"}, "connection"},
		{"before duplicated", []string{rep, rep, "connection: webhook-timestamp"}, "connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := signature.ParseHeaders(headers(tt.lines...), signature.Replicate)
			if got := reason(t, err); got != tt.want {
				t.Errorf("reason = %q, want %q", got, tt.want)
			}
		})
	}
	for _, name := range signature.ProtectedHeaders() {
		t.Run(name, func(t *testing.T) {
			for _, spelling := range []string{
				name, strings.ToLower(name), strings.ToUpper(name),
				strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."),
				strings.ReplaceAll(name, "-", "!"), strings.ReplaceAll(name, "-", "~"), strings.ReplaceAll(name, "-", "^"),
			} {
				_, err := signature.ParseHeaders(headers(rep, "connection: "+spelling), both)
				if reason(t, err) != "connection" || !signature.IsProtected(spelling) {
					t.Errorf("%q passes", spelling)
				}
				if !strings.HasSuffix(err.Error(), "Connection names "+name) {
					t.Errorf("error %q does not name %q", err, name)
				}
			}
		})
	}
}

func TestProtectedHeaders(t *testing.T) {
	names := signature.ProtectedHeaders()
	for _, name := range names {
		if http.CanonicalHeaderKey(name) != name {
			t.Errorf("%q is not in canonical form", name)
		}
	}
	names[0] = "Other"
	if signature.ProtectedHeaders()[0] == "Other" {
		t.Error("a caller can change the list")
	}
	for _, name := range []string{"", "Host", "Accept", "Webhook", "X-Replicate-Other", "content type", "Content--Type"} {
		if signature.IsProtected(name) {
			t.Errorf("%q is protected", name)
		}
	}
}
