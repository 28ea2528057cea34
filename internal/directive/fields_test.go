package directive

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

type tagged struct {
	Name   string         `json:"name,omitempty" default:"all" arg:"a name"`
	Mode   string         `json:"mode,omitempty" default:"fast" choice:"fast slow"`
	List   []string       `json:"list,omitempty"`
	Wait   caddy.Duration `json:"wait,omitempty" default:"1d"`
	Keep   caddy.Duration `json:"keep,omitempty" default:"5m" off:"true"`
	Size   int64          `json:"size,omitempty" default:"8MiB"`
	Count  int            `json:"count,omitempty"`
	Flag   bool           `json:"flag,omitempty"`
	Words  []string       `json:"words,omitempty" default:"in" choice:"in out"`
	hidden string
}

// TestFieldsAreOptions holds that tags alone say what an option takes.
func TestFieldsAreOptions(t *testing.T) {
	read := func(block string) (got tagged, err error) {
		d := caddyfile.NewTestDispenser("x {\n" + block + "\n}")
		d.Next()
		w := Options(d)
		for w.Next() {
			w.Field(&got)
		}
		return got, w.Err()
	}
	got, err := read("name a\nmode slow\nlist a b\nwait 10s\nkeep off\nsize 1KiB\ncount 3\nflag\nwords out in")
	want := tagged{"a", "slow", []string{"a", "b"}, caddy.Duration(10 * time.Second), Off, 1 << 10, 3, true, []string{"out", "in"}, ""}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for block, want := range map[string]string{
		"hidden a":    "there is no option hidden: use name, mode, list, wait, keep, size, count, flag or words",
		"mode x":      `mode is "x": use fast or slow`,
		"words in on": `words is "on": use in or out`,
		"words":       "words takes one value or more",
		"name":        "name takes a name",
		"wait off":    "wait is",
	} {
		if _, err := read(block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", block, err, want)
		}
	}
}

func TestDefaultsAreThoseOfTheTags(t *testing.T) {
	var got tagged
	want := tagged{Name: "all", Mode: "fast", Wait: caddy.Duration(24 * time.Hour), Keep: caddy.Duration(5 * time.Minute), Size: 8 << 20, Words: []string{"in"}}
	if err := SetDefaults(&got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	set := tagged{Name: "a", Mode: "slow", Wait: 1, Keep: Off, Size: 1, Words: []string{"out"}}
	got = set
	if err := SetDefaults(&got); err != nil || !reflect.DeepEqual(got, set) {
		t.Errorf("what is set became %+v, %v", got, err)
	}
	for _, wrong := range []tagged{{Mode: "x"}, {Wait: Off}} {
		if err := SetDefaults(&wrong); err == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
}
