package secret

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestSecretsAsPeoplePasteThem holds that what is pasted along with a secret is
// refused, by a message that says what it is and holds nothing of the secret.
func TestSecretsAsPeoplePasteThem(t *testing.T) {
	const key = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	const whsec = "whsec_" + key
	for _, c := range []struct{ name, value, want string }{
		{"double quotes", `"` + whsec + `"`, "quotes"},
		{"single quotes", "'" + whsec + "'", "quotes"},
		{"backquotes", "`" + whsec + "`", "quotes"},
		{"typographic quotes", "\u201c" + whsec + "\u201d", "quotes"},
		{"quotes around a plain secret", `"` + key + `"`, "quotes"},
		{"a quote before", `"` + whsec, "before whsec_"},
		{"v1", "v1," + whsec, "v1,"},
		{"v1 before a plain secret", "v1," + key, "v1,"},
		{"capital v1", "V1," + whsec, "v1,"},
		{"name", "WEBHOOK_SECRET=" + whsec, "name"},
		{"name and quotes", `WEBHOOK_SECRET="` + whsec + `"`, "name"},
		{"export", "export WEBHOOK_SECRET=" + whsec, "name"},
		{"name of a plain secret", "WEBHOOK_SECRET=" + key, "name"},
		{"name in small letters", "secret=" + whsec, "a name"},
		{"YAML", "secret: " + whsec, "a name"},
		{"blank before", " " + whsec, "begins with a blank"},
		{"blank after", whsec + " ", "ends in a blank"},
		{"tab after", whsec + "\t", "ends in a tab"},
		{"no-break space after", whsec + "\u00a0", "U+00A0"},
		{"zero-width space after", whsec + "\u200b", "U+200B"},
		{"line break before", "\n" + whsec, "begins with a line break"},
		{"line break after", whsec + "\n", "ends in a line break"},
		{"byte order mark", "\ufeff" + whsec, "byte order mark"},
		{"byte order mark at the end", whsec + "\ufeff", "byte order mark"},
		{"UTF-16", "\xff\xfew\x00h\x00s\x00e\x00c\x00_\x00", "UTF-8"},
		{"capital letters", "WHSEC_" + key, "capital letters"},
		{"a capital letter", "Whsec_" + key, "capital letters"},
		{"hyphen", "whsec-" + key, "underscore"},
		{"JSON", `{"key":"` + whsec + `"}`, "JSON"},
		{"JSON of a plain secret", `{"key": "` + key + `"}`, "JSON"},
		{"header", "Signing-Secret: " + whsec, "a name"},
		{"20 blanks", strings.Repeat(" ", 20), "blanks alone"},
		{"other blanks", strings.Repeat("\u00a0\t", 20), "blanks alone"},
		{"two lines", whsec + "\n" + whsec, "more than one line"},
		{"two secrets", whsec + " " + whsec, "one word"},
		{"shell variable", "$WEBHOOK_SIGNING_SECRET", "variable"},
		{"shell variable in braces", "${WEBHOOK_SIGNING_SECRET}", "variable"},
		{"escape character", whsec + "\x1b[0m" + key, "control"},
		{"nothing", "", "empty"},
		{"name in small letters of a plain secret", "webhook_secret=" + key, "name"},
		{"YAML of a plain secret", "secret: " + key, "name"},
		{"Bearer", "Bearer " + key, "Bearer"},
		{"escaped line break", key + `\n`, "backslash"},
		{"escaped line break of Windows", key + `\r\n`, "backslash"},
		{"escaped line break after whsec_", whsec + `\n`, "backslash"},
		{"escaped line break after hexadecimal digits", "0123456789abcdef0123456789abcdef\\n", "backslash"},
		{"one character", strings.Repeat("x", 32), "again and again"},
		{"one other character", strings.Repeat("*", 16), "again and again"},
		{"one character that is not ASCII", strings.Repeat("•", 16), "again and again"},
		{"one character after whsec_", "whsec_" + strings.Repeat("A", 43) + "=", "again and again"},
		{"one character after sealkey_", "sealkey_" + strings.Repeat("A", 43) + "=", "again and again"},
		{"variable of Windows", "%WEBHOOK_SIGNING_SECRET%", "variable"},
		{"template", "{{ .Values.webhook.secret }}", "template"},
		{"angle brackets", "<your-secret>", "placeholder"},
		{"angle brackets around other words", "<webhook signing secret>", "placeholder"},
		{"angle brackets after whsec_", "whsec_<the secret>", "placeholder"},
		{"typographic brackets", "‹Ihr Geheimnis›", "placeholder"},
		{"square brackets", "[your-signing-secret]", "placeholder"},
		{"changeme", "changeme", "placeholder"},
		{"change me twice", "ChangeMe-ChangeMe", "placeholder"},
		{"change me in capital letters", "CHANGE_ME_PLEASE", "placeholder"},
		{"your secret here", "your_webhook_secret_here", "placeholder"},
		{"your secret here after whsec_", "whsec_your-secret-here", "placeholder"},
		{"replace with", "replace this with your secret", "placeholder"},
		{"example", "example.secret.key", "placeholder"},
		{"zero-width space inside", key[:9] + "\u200b" + key[9:], "U+200B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(c.value)
			if err == nil {
				t.Fatal("is taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %q, want something with %q", err, c.want)
			}
			if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "C2FV") {
				t.Errorf("the error %q quotes the secret", err)
			}
		})
	}
	for _, good := range []string{
		whsec, key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==", "correct horse battery staple", "0123456789abcdef0123456789abcdef",
		"a=b:c,d;e/f+g?h&i", "it's \"quoted\" inside", "YWJjZGVmZ2hpamtsbW5vcA==", "UPPERCASESECRETONLY==", "r8_abcdefghijklmnopqrstuvwxyz0123456789", "geheimnis-mit-ümlaut",
		"{brace}without-quotes", "the secret key of production", "exchange rate of your weather", "xxxxxxxxxxxxxxxy",
		`D:\new\n`, `kT9#~c\n`, "<aZ3>bC9dE2fG7hJ4>", "%aZ3bC9-dE2fG7hJ4%", "[aZ3$bC9dE2fG7hJ4]", "replaceable parts of a token ring",
	} {
		if err := Check(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// TestRandomSecretsAreTaken: what is random is refused for no shape that it may
// have, in any alphabet that secrets are written in.
func TestRandomSecretsAreTaken(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	printable := make([]byte, 0, 94)
	for c := byte('!'); c <= '~'; c++ {
		printable = append(printable, c)
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for _, alphabet := range []string{"0123456789abcdef", letters + "0123456789", letters + "0123456789+/", letters + "0123456789-_", letters[26:]} {
		for n := range 4_000 {
			b := make([]byte, 16+n%33)
			for i := range b {
				b[i] = alphabet[r.IntN(len(alphabet))]
			}
			if err := errors.Join(Check(string(b)), CheckSigning(string(b))); err != nil {
				t.Fatalf("%q: %v", b, err)
			}
		}
	}
	// Of all that can be typed, what the shapes above look at is refused by them
	// alone: quotes and the like are pasted along too often.
	for n := range 20_000 {
		b := make([]byte, 16+n%33)
		for i := range b {
			b[i] = printable[r.IntN(len(printable))]
		}
		if err := errors.Join(checkPlaceholder(string(b)), CheckSigning(string(b))); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	}
}

// TestTokensAreNoSigningSecrets: an API's token signs nothing.
func TestTokensAreNoSigningSecrets(t *testing.T) {
	token := "r8_" + strings.Repeat("aZ3bC9dE2f", 4)[:37]
	if err := CheckSigning(token); err == nil || !strings.Contains(err.Error(), "API token") || strings.Contains(err.Error(), "aZ3") {
		t.Errorf("got %v", err)
	}
	if err := Check(token); err != nil {
		t.Errorf("as a token: %v", err)
	}
}
