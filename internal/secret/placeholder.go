package secret

import (
	"errors"
	"regexp"
	"strings"
	"unicode/utf8"
)

// What is refused here has the shape of what people leave in the place of a
// secret. The shapes are narrow: one of 16 random bytes has none of them, in
// whichever alphabet it is written, but once in some hundred thousand times.
var (
	escapedBreak    = regexp.MustCompile(`^[A-Za-z0-9+/=_ -]*(?:\\r)?\\n$`)
	windowsVariable = regexp.MustCompile(`^%[A-Za-z_][A-Za-z0-9_]*%$`)
	template        = regexp.MustCompile(`^\{\{.*\}\}$`)
	inBrackets      = regexp.MustCompile(`^(?:<[A-Za-z0-9 _.-]*>|\[[A-Za-z0-9 _.-]*\]|‹.*›)$`)

	// placeholderWords matches a text that has no other words than these, with
	// one among them that asks for a secret. Tools that generate passwords out of
	// words do not choose such ones alone.
	placeholderWords = regexp.MustCompile(`(?i)^(?:(?:` + asking + `|` + neutral + `)[ _.-]*)+$`)
	askingWord       = regexp.MustCompile(`(?i)` + asking)

	apiToken = regexp.MustCompile(`^r8_[A-Za-z0-9]{37}$`)
)

const (
	asking  = `change|replace|your|insert|enter|put|paste|placeholder|example|here|todo|fixme`
	neutral = `me|this|it|with|please|my|the|a|an|own|real|random|strong|long|new|webhooks?|signing|secret|api|key|token|password|value|replicate|before|in|production`
)

// checkPlaceholder reports whether something stands in the place of a secret.
func checkPlaceholder(value string) error {
	rest := strings.TrimPrefix(strings.TrimPrefix(value, prefix), "sealkey_")
	first, size := utf8.DecodeRuneInString(rest)
	switch {
	case escapedBreak.MatchString(value):
		return errors.New(`it ends in \n, a backslash and a letter, where a line break was meant: remove that`)
	case windowsVariable.MatchString(value):
		return errVariable
	case template.MatchString(value):
		return errors.New("it is a template that nothing has filled in")
	case inBrackets.MatchString(rest), placeholderWords.MatchString(rest) && askingWord.MatchString(rest):
		return errors.New("it is a placeholder: put the secret in the place of it")
	case len(rest) > size && strings.Trim(strings.TrimRight(rest, "="), string(first)) == "":
		return errors.New("it is one character again and again: make a random secret, with openssl rand -base64 32 for example")
	}
	return nil
}

// CheckSigning returns an error for an API's token in the place of a secret that
// signs. It says so without quoting the token.
func CheckSigning(value string) error {
	if apiToken.MatchString(value) {
		return errors.New("it is an API token, which begins with r8_: a signing secret begins with whsec_")
	}
	return nil
}
