package command

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func screen(width int) (*terminal, *bytes.Buffer) {
	var b bytes.Buffer
	return &terminal{out: bufio.NewWriter(&b), width: width, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}, &b
}

func TestTableFitsTheTerminal(t *testing.T) {
	for _, c := range []struct {
		width int
		want  string
	}{
		{0, "ID       STATE   URL\nabcdefg  failed  https://example.com/a/long/path\n-        ü       -\n"},
		{48, "ID       STATE   URL\nabcdefg  failed  https://example.com/a/long/path\n-        ü       -\n"},
		{30, "ID       STATE   URL\nabcdefg  failed  https://exam…\n-        ü       -\n"},
		{20, "id     abcdefg\nstate  failed\nurl    https://examp\n       le.com/a/long\n       /path\n\nid     -\nstate  ü\nurl    -\n"},
		// No terminal is that narrow; nothing is lost, and it ends.
		{3, "id     abcdefg\nstate  failed\nurl    https://ex\n       ample.com/\n       a/long/pat\n       h\n\nid     -\nstate  ü\nurl    -\n"},
	} {
		to, got := screen(c.width)
		out := table{columns: []column{{"ID", 0}, {"STATE", 0}, {"URL", 10}}}
		out.add(plain("abcdefg", "failed", "https://example.com/a/long/path")...)
		out.add(plain("", "ü", "")...)
		out.write(to)
		_ = to.flush()
		if got.String() != c.want {
			t.Errorf("width %d:\n%s\nwant\n%s", c.width, got, c.want)
		}
	}
}

func TestColoursAreOnlyThereWhereWanted(t *testing.T) {
	for _, color := range []bool{false, true} {
		to, got := screen(0)
		to.color = color
		out := table{columns: []column{{"STATE", 0}, {"N", 0}}}
		out.add(cell{"failed", red}, cell{text: "1"})
		out.write(to)
		_ = to.flush()
		if has := strings.Contains(got.String(), "\x1b[31mfailed\x1b[0m  1"); has != color {
			t.Errorf("color %t: %q", color, got)
		}
	}
}

func TestTextOfOthersIsClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain für <b>": "plain für <b>", "\x1b[31m": `\u001b[31m`, "a\nb\tc": `a\nb\tc`, "\xff\xfe": `\xff\xfe`,
		"\u202egpj": `\u202egpj`, "\U000e0001": `\U000e0001`, "\u00a0": `\u00a0`, "\x00": `\u0000`, "\ufffd": "\ufffd", "": "",
	} {
		if got := clean(in); got != want || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestProgressFits(t *testing.T) {
	for _, width := range []int{0, 10, 40, 200} {
		var b bytes.Buffer
		p := progress{to: &b, width: width, total: 70}
		p.end()
		if b.Len() > 0 {
			t.Fatalf("a bar that was not begun is ended with %q", b.String())
		}
		for n := range 80 { // more than was counted: rows came meanwhile
			p.show(n)
		}
		p.end()
		for line := range strings.SplitSeq(strings.TrimSuffix(b.String(), "\n"), "\r") {
			if width > 0 && len(line) > width {
				t.Errorf("width %d: %q", width, line)
			}
		}
		if !strings.HasSuffix(b.String(), " 79/70\n") {
			t.Errorf("width %d ends with %q", width, b.String()[max(0, b.Len()-60):])
		}
	}
}

func TestRoughTimes(t *testing.T) {
	to, _ := screen(0)
	for ago, want := range map[time.Duration]string{
		0: "0s ago", 59 * time.Second: "59s ago", 90 * time.Second: "1m ago", 3 * time.Hour: "3h ago", 47 * time.Hour: "47h ago",
		72 * time.Hour: "3d ago", -30 * time.Second: "in 30s",
	} {
		if got := to.ago(to.now.Add(-ago)); got != want {
			t.Errorf("%s: %s, want %s", ago, got, want)
		}
	}
	if got := to.ago(time.Time{}); got != "-" {
		t.Errorf("no time: %s", got)
	}
}

// plain returns cells without colors.
func plain(texts ...string) []cell {
	out := make([]cell, len(texts))
	for i, s := range texts {
		out[i].text = s
	}
	return out
}
