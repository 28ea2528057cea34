// Package directive reads the block of a Caddyfile directive option by option.
//
//	o := directive.Options(d)
//	for o.Next() {
//		switch o.Name() {
//		case "prefix":
//			o.Text(&h.Prefix, "a path")
//		default:
//			o.Unknown("prefix")
//		}
//	}
//	return o.Err()
//
// Every option may stand once and has to use up its arguments. The first error
// is kept, with the file and line it is at, and ends the walk.
package directive

import (
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// Off is the value in JSON of an option that is switched off.
const Off = -1

// maxSize bounds sizes, so that sums of them don't overflow.
const maxSize = 1 << 40

// Walker goes through the options of one block. Made by Options.
type Walker struct {
	d       *caddyfile.Dispenser
	nesting int
	name    string
	seen    map[string]int
	err     error
	outer   *Walker // the block this one is in
}

// Options starts at the block that follows the dispenser's current token.
func Options(d *caddyfile.Dispenser) *Walker {
	return &Walker{d: d, nesting: d.Nesting(), seen: make(map[string]int)}
}

// Next goes to the next option, after checking that the last one left no
// argument. It reports false at the end and after an error.
func (w *Walker) Next() bool {
	if w.err == nil && w.name != "" && w.d.NextArg() {
		w.Failf("unexpected %q: %s takes no more", w.d.Val(), w.name)
	}
	if w.err != nil || !w.d.NextBlock(w.nesting) {
		return false
	}
	w.name = w.d.Val()
	if line, again := w.seen[w.name]; again {
		w.Failf("%s is given twice, first at line %d: keep one", w.name, line)
		return false
	}
	w.seen[w.name] = w.d.Line()
	return true
}

// Name returns the option's name.
func (w *Walker) Name() string { return w.name }

// Err returns the first error.
func (w *Walker) Err() error { return w.err }

// Failf sets the error, unless there is one already.
func (w *Walker) Failf(format string, args ...any) {
	if w.err == nil {
		w.err = w.d.Errf(format, args...)
	}
}

// Fail sets an error that has its place already, unless there is one.
func (w *Walker) Fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Unknown fails on an option that does not exist. known lists those that do.
func (w *Walker) Unknown(known string) {
	w.Failf("there is no option %s: use %s", w.name, known)
}

// Arg returns the option's next argument. The error when it is missing or empty
// uses what, which describes the argument.
func (w *Walker) Arg(what string) (string, bool) {
	switch {
	case !w.d.NextArg():
		w.Failf("%s takes %s", w.name, what)
	case w.d.Val() == "":
		w.Failf("%s is empty: it takes %s", w.name, what)
	default:
		return w.d.Val(), w.err == nil
	}
	return "", false
}

// Text reads one argument.
func (w *Walker) Text(dst *string, what string) {
	if s, ok := w.Arg(what); ok {
		*dst = s
	}
}

// List reads one argument or more.
func (w *Walker) List(dst *[]string) {
	for s, ok := w.Arg("one value or more"); ok; s, ok = w.Arg("") {
		*dst = append(*dst, s)
		if w.d.CountRemainingArgs() == 0 {
			return
		}
	}
}

// Choice reads one of the allowed words.
func (w *Walker) Choice(dst *string, allowed ...string) {
	s, ok := w.Arg(strings.Join(allowed, " or "))
	if !ok {
		return
	}
	if !slices.Contains(allowed, s) {
		w.Failf("%s is %q: use %s", w.name, s, strings.Join(allowed, " or "))
	}
	*dst = s
}

// Flag reads an option without arguments and sets dst to true.
func (w *Walker) Flag(dst *bool) { *dst = true }

// Duration reads a positive duration of a millisecond or more.
func (w *Walker) Duration(dst *caddy.Duration) {
	if s, ok := w.Arg("a duration such as 10s"); ok {
		w.duration(dst, s)
	}
}

// DurationOrOff reads a duration, or off, for which dst becomes Off.
func (w *Walker) DurationOrOff(dst *caddy.Duration) {
	s, ok := w.Arg("a duration such as 5m, or off")
	switch {
	case !ok:
	case s == "off":
		*dst = Off
	default:
		w.duration(dst, s)
	}
}

func (w *Walker) duration(dst *caddy.Duration, s string) {
	d, err := caddy.ParseDuration(s)
	switch {
	case err != nil:
		w.Failf("%s is %q, which is not a valid duration: write it like 10s, 5m or 1d", w.name, s)
	case d <= 0:
		w.Failf("%s is %s: it must be positive", w.name, s)
	case d < time.Millisecond:
		w.Failf("%s is %s: the least is 1ms", w.name, s)
	}
	*dst = caddy.Duration(d)
}

// Size reads a positive number of bytes such as 8MiB.
func (w *Walker) Size(dst *int64) {
	s, ok := w.Arg("a size such as 8MiB")
	if !ok {
		return
	}
	n, err := humanize.ParseBytes(s)
	switch {
	case err != nil:
		w.Failf("%s is %q, which is not a valid size: write it like 512KiB or 8MiB", w.name, s)
	case n == 0 || n > maxSize:
		w.Failf("%s is %s: it must be more than 0 and at most 1TiB", w.name, s)
	case n < leastSize:
		w.Failf("%s is %s, which is %d bytes: the least is 1KiB; write it like 512KiB or 8MiB", w.name, s, n)
	}
	*dst = int64(n)
}
