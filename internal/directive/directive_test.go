package directive

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

type config struct {
	text, choice string
	list         []string
	flag         bool
	wait, limit  caddy.Duration
	size         int64
}

func parse(t *testing.T, text string) (c config, err error) {
	t.Helper()
	d := caddyfile.NewTestDispenser(text)
	d.Next()
	w := Options(d)
	for w.Next() {
		switch w.Name() {
		case "text":
			w.Text(&c.text, "a name")
		case "choice":
			w.Choice(&c.choice, "on", "off")
		case "list":
			w.List(&c.list)
		case "flag":
			w.Flag(&c.flag)
		case "wait":
			w.Duration(&c.wait)
		case "limit":
			w.DurationOrOff(&c.limit)
		case "size":
			w.Size(&c.size)
		default:
			w.Unknown("text, choice, …")
		}
	}
	return c, w.Err()
}

func TestOptionsAreRead(t *testing.T) {
	got, err := parse(t, `x {
		text a
		choice off
		list a b
		flag
		wait 10s
		limit off
		size 16MiB
	}`)
	want := config{"a", "off", []string{"a", "b"}, true, caddy.Duration(10 * time.Second), Off, 16 << 20}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err := parse(t, "x {\nlimit 1d\n}"); err != nil || got.limit != caddy.Duration(24*time.Hour) {
		t.Fatalf("a day is %+v, %v", got, err)
	}
	if got, err := parse(t, "x"); err != nil || !reflect.DeepEqual(got, config{}) {
		t.Fatalf("without a block: %+v, %v", got, err)
	}
}

func TestErrorsNameOptionFileAndLine(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"unknown", "nope", "there is no option nope: use text"},
		{"repeated", "text a\ntext b", "given twice, first at line 2"},
		{"too many", "text a b", `unexpected "b": text takes no more`},
		{"too few", "text", "text takes a name"},
		{"empty", `text ""`, "text is empty"},
		{"flag with argument", "flag on", "flag takes no more"},
		{"not a choice", "choice maybe", `choice is "maybe": use on or off`},
		{"empty list", "list", "list takes one value or more"},
		{"not a duration", "wait soon", "not a valid duration"},
		{"negative", "wait -1s", "must be positive"},
		{"tiny", "wait 1us", "the least is 1ms"},
		{"no limit", "limit", "or off"},
		{"not a size", "size big", "not a valid size"},
		{"no bytes", "size 0", "more than 0"},
		{"huge", "size 2TiB", "at most 1TiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, "x {\n"+c.line+"\n}")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Testfile:") {
				t.Fatalf("the error is %v, want %q with file and line", err, c.want)
			}
		})
	}
}
