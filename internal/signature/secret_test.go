package signature_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

const (
	officialSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	officialID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	officialTimestamp = "1614265330"
	officialBody      = `{"test": 2432232314}`
	officialSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

	plainSecret = "a shared secret, not base64"
)

func secret(t testing.TB, text string) signature.Secret {
	t.Helper()
	s, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatalf("ParseSecret: %v", err)
	}
	return s
}

// whsec returns a whsec_ secret of n key bytes, each of them b.
func whsec(n int, b byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, n))
}

func TestParseSecret(t *testing.T) {
	tests := []struct {
		name     string
		text     string
		err      error
		standard bool
	}{
		{"official vector", officialSecret, nil, true},
		{"32 bytes", whsec(32, 1), nil, true},
		{"16 bytes", whsec(16, 1), nil, true},
		{"16 bytes without padding", strings.TrimRight(whsec(16, 1), "="), nil, true},
		{"15 bytes though the text is longer than 16", whsec(15, 1), signature.ErrShort, false},
		{"prefix alone", "whsec_", signature.ErrShort, false},
		{"not base64", "whsec_****************************", signature.ErrBase64, false},
		{"URL alphabet", "whsec_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_", signature.ErrBase64, false},
		{"line end inside", "whsec_MfKQ9r8GKYqrTwjU\nPD8ILPZIo2LaLaSw", signature.ErrBase64, false},
		{"line end behind", officialSecret + "\n", signature.ErrBase64, false},
		{"half a padding", strings.TrimSuffix(whsec(16, 1), "="), signature.ErrBase64, false},
		{"impossible length", "whsec_" + strings.Repeat("A", 33), signature.ErrBase64, false},
		{"16 characters", "0123456789abcdef", nil, false},
		{"15 characters", "0123456789abcde", signature.ErrShort, false},
		{"16 bytes of 8 characters", "éééééééé", nil, false},
		{"empty", "", signature.ErrShort, false},
		{"prefix in upper case is an ordinary string", "WHSEC_MfKQ9r8GKYqrTwjU", nil, false},
		{"spaces count", "                ", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := signature.ParseSecret(tt.text)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error = %v, want %v", err, tt.err)
			}
			if s.Standard() != tt.standard {
				t.Errorf("Standard() = %v, want %v", s.Standard(), tt.standard)
			}
			if err != nil && len(tt.text) > 6 && strings.Contains(err.Error(), tt.text[6:]) {
				t.Errorf("error repeats the secret: %v", err)
			}
			if err != nil && s != (signature.Secret{}) {
				t.Error("a refused secret is not the zero value")
			}
		})
	}
}

func TestSecretPaddingDoesNotChangeTheStandardKey(t *testing.T) {
	padded := whsec(32, 7)
	a, b := secret(t, padded), secret(t, strings.TrimRight(padded, "="))
	if a.SignStandard("id", "1", nil) != b.SignStandard("id", "1", nil) {
		t.Error("padding changes the standard key")
	}
	if a.SignReplicate(nil) == b.SignReplicate(nil) {
		t.Error("the replicate key is not the secret as written")
	}
}

func TestZeroSecret(t *testing.T) {
	var zero signature.Secret
	if zero.Standard() || zero.SignReplicate(nil) != "" || zero.SignStandard("a", "1", nil) != "" {
		t.Error("the zero secret signs")
	}
	if !zero.Equal(signature.Secret{}) || zero.Equal(secret(t, plainSecret)) || secret(t, plainSecret).Equal(zero) {
		t.Error("the zero secret equals more or less than itself")
	}
}

func TestSecretEqual(t *testing.T) {
	a := secret(t, officialSecret)
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{"same text", officialSecret, true},
		{"last character", officialSecret[:len(officialSecret)-1] + "x", false},
		{"longer", officialSecret + "AAAA", false},
		{"other kind", plainSecret, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := a.Equal(secret(t, tt.text)); got != tt.want {
				t.Errorf("Equal = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	type exported struct {
		Secret  signature.Secret
		Pointer *signature.Secret
		List    []signature.Secret
		Map     map[string]signature.Secret
	}
	type unexported struct{ secret signature.Secret }
	s := secret(t, officialSecret)
	forms := map[string]any{
		"value":    s,
		"pointer":  &s,
		"slice":    []signature.Secret{s},
		"exported": exported{s, &s, []signature.Secret{s}, map[string]signature.Secret{"a": s}},
		"hidden":   unexported{s},
		"hidden *": &unexported{s},
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(officialSecret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	leaks := []string{
		officialSecret, officialSecret[6:], string(key),
		fmt.Sprintf("%x", officialSecret), fmt.Sprintf("%X", key), fmt.Sprintf("%x", key),
		strings.Trim(fmt.Sprint(key), "[]"), strings.Trim(fmt.Sprint([]byte(officialSecret)), "[]"),
	}
	check := func(t *testing.T, how, out string) {
		t.Helper()
		for _, leak := range leaks {
			if strings.Contains(out, leak) {
				t.Errorf("%s shows the secret: %s", how, out)
			}
		}
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%10.3s", "%!"} {
				check(t, verb, fmt.Sprintf(verb, form))
			}
			if out, err := json.Marshal(form); err == nil {
				check(t, "json", string(out))
			}
			if out, err := xml.Marshal(form); err == nil {
				check(t, "xml", string(out))
			}
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", form)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", form)
			check(t, "slog", log.String())
		})
	}
	for how, out := range map[string]string{
		"%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", s), "%#v": fmt.Sprintf("%#v", s),
		"%s": fmt.Sprintf("%s", s), "%q": fmt.Sprintf("%q", s), "%d": fmt.Sprintf("%d", s),
		"String": s.String(), "GoString": s.GoString(), "LogValue": s.LogValue().String(),
		"error": fmt.Errorf("with %v", s).Error()[5:],
	} {
		if out != "[redacted]" {
			t.Errorf("%s gives %q", how, out)
		}
	}
	if out, err := json.Marshal(s); err != nil || string(out) != `"[redacted]"` {
		t.Errorf("json gives %s, %v", out, err)
	}
}

func TestNewSecret(t *testing.T) {
	random := bytes.Repeat([]byte{0xfb}, 33)
	text, err := signature.NewSecret(bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	if want := whsec(32, 0xfb); text != want {
		t.Errorf("NewSecret = %q, want %q", text, want)
	}
	if !secret(t, text).Standard() {
		t.Error("a new secret does not work for the standard scheme")
	}
	if text, err := signature.NewSecret(bytes.NewReader(random[:31])); !errors.Is(err, io.ErrUnexpectedEOF) || text != "" {
		t.Errorf("short reader gives %q, %v", text, err)
	}
}

func TestFingerprints(t *testing.T) {
	a, b := secret(t, whsec(32, 1)), secret(t, whsec(32, 2))
	if a.Fingerprint() != secret(t, whsec(32, 1)).Fingerprint() {
		t.Error("the fingerprint of one secret differs")
	}
	if a.Fingerprint() == b.Fingerprint() || a.Fingerprint() == (signature.Fingerprint{}) {
		t.Error("fingerprints do not tell secrets apart")
	}
	if (signature.Secret{}).Fingerprint() != (signature.Fingerprint{}) {
		t.Error("the zero secret has a fingerprint")
	}
}
