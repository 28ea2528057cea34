package command

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// terminal holds the streams that a command reads and writes.
type terminal struct {
	in       io.Reader
	out      *bufio.Writer
	err      io.Writer
	width    int // 0: no end
	color    bool
	progress bool // err is a terminal
	json     bool
	now      time.Time
	cmd      *cobra.Command
}

func newTerminal(cmd *cobra.Command) *terminal {
	t := &terminal{
		in: cmd.InOrStdin(), out: bufio.NewWriter(cmd.OutOrStdout()), err: cmd.ErrOrStderr(), now: time.Now(), cmd: cmd,
		progress: term.IsTerminal(int(os.Stderr.Fd())),
	}
	t.json, _ = cmd.Flags().GetBool("json")
	fd := int(os.Stdout.Fd())
	tty := term.IsTerminal(fd)
	t.color = tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if tty {
		t.width, _, _ = term.GetSize(fd)
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		t.width = n
	}
	return t
}

func (t *terminal) flush() error { return t.out.Flush() }

func (t *terminal) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

// document writes a document as JSON. It reports whether that is what was asked
// for.
func (t *terminal) document(doc any) bool {
	if !t.json {
		return false
	}
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(doc) // flush has the error
	return true
}

// addJSON adds the flag of document.
func addJSON(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Write JSON, as the admin API has it")
}

type color string

const (
	red    color = "31"
	green  color = "32"
	yellow color = "33"
	dim    color = "2"
	bold   color = "1"
)

// paint colors a text where there are colors.
func (t *terminal) paint(c color, text string) string {
	if !t.color || c == "" || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// clean returns a text safe for a terminal: control characters and other
// invisible ones are escaped.
func clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// ago returns how long ago a time was, roughly.
func (t *terminal) ago(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	d := t.now.Sub(at)
	if d < 0 {
		return "in " + rough(-d)
	}
	return rough(d) + " ago"
}

// rough returns a duration in its largest unit.
func rough(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// exact returns a time as it is written in full, in UTC.
func exact(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05.000Z") }
