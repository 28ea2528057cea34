// Package secret expands configured secrets without letting them out.
package secret

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Expand replaces placeholders such as {env.NAME} and {file./path} in a
// configured secret. literal reports that the configuration holds the secret
// itself, in whole or in part, where /config/ and adapt output show it.
//
// A line break at the end, as files have it, is not part of the secret. Errors
// name the placeholder, never the value.
func Expand(configured string) (value string, literal bool, err error) {
	repl := caddy.NewReplacer()
	value, err = repl.ReplaceOrErr(configured, true, true)
	if err != nil {
		// The replacer's own message quotes only the placeholder.
		return "", false, err
	}
	value = strings.TrimRight(value, "\r\n")
	if value == "" {
		return "", false, errors.New("it is empty")
	}
	return value, !isPlaceholder(configured), nil
}

func isPlaceholder(s string) bool {
	return strings.HasPrefix(s, "{") && strings.Index(s, "}") == len(s)-1
}

// Warning is what to tell an operator whose option holds a literal secret.
func Warning(option string) string {
	return fmt.Sprintf("%s is written into the configuration, where the admin endpoint's /config/, autosave and adapt output show it; use {env.NAME} or {file./path/to/secret}", option)
}
