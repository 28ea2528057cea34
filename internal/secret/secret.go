// Package secret reads configured secrets without letting them out, and reads
// those that are in files again when the files change.
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Expand replaces placeholders such as {env.NAME} and {file./path} in a
// configured secret. literal reports that the configuration holds the secret
// itself, in whole or in part, where /config/ and adapt output show it.
//
// A line break at the end, as files have it, is not part of the secret. Errors
// name the placeholder or the file, never the value.
//
// Unlike [Watcher.Use] it does not check the value otherwise: what it is used for
// has a form of its own.
func Expand(configured string) (value string, literal bool, err error) {
	value, _, err = expand(configured)
	if err == nil && strings.TrimSpace(value) == "" {
		err = errors.New("it is empty")
	}
	return value, !isPlaceholder(configured), err
}

// filePrefix begins the placeholders that stand for the content of a file.
const filePrefix = "file."

// expand returns the value and whether it comes from files that can be read
// again.
func expand(configured string) (value string, files bool, err error) {
	var failed error
	// Caddy's own provider for files logs what it can't read at each call, and
	// gives an empty value in its place.
	repl := caddy.NewReplacer().WithoutFile()
	repl.Map(func(key string) (any, bool) {
		path, ok := strings.CutPrefix(key, filePrefix)
		if !ok {
			return nil, false
		}
		content, regular, err := readFile(path)
		files = files || regular
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("{%s}: %w", key, err))
		}
		return content, true
	})
	value, err = repl.ReplaceOrErr(configured, true, true)
	switch {
	case failed != nil:
		return "", files, failed
	case err != nil:
		// The replacer's own message quotes only the placeholder.
		return "", files, err
	}
	return strings.TrimRight(value, "\r\n"), files, nil
}

// maxFile is the size that a file of a secret may have, in bytes.
const maxFile = 1 << 20

// readFile returns the content of a file without the line break at its end.
// regular reports whether the path leads to a file that can be read again, which
// a pipe can't.
func readFile(path string) (content string, regular bool, err error) {
	// That the file is not there now says nothing of what it will be.
	regular = true
	f, err := os.Open(path)
	if err != nil {
		return "", regular, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", regular, err
	}
	regular = info.Mode().IsRegular()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", regular, err
	case len(b) > maxFile:
		return "", regular, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), regular, nil
}

func isPlaceholder(s string) bool {
	return strings.HasPrefix(s, "{") && strings.Index(s, "}") == len(s)-1
}

// Warning returns a message for an operator whose option holds a literal secret.
func Warning(option string) string {
	return fmt.Sprintf("%s is written into the configuration, where the admin endpoint's /config/, autosave and adapt output show it; use {env.NAME} or {file./path/to/secret}", option)
}
