package ecmajson

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func mustParse(t testing.TB, src string, lim Limits, sel *Selector) *Document {
	t.Helper()
	d, err := Parse([]byte(src), lim, sel)
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	return d
}

func TestValue(t *testing.T) {
	type want struct {
		path string // keys joined by a dot
		kind Kind
		raw  string
		src  string // the value in the source
	}
	for _, c := range []struct {
		name, in string
		want     []want
	}{
		{"one and two keys", `{"event":"e","prediction":{"id":"p","n":1.50}}`, []want{
			{"event", String, `"e"`, `"e"`},
			{"prediction", Object, `{"id":"p","n":1.5}`, `{"id":"p","n":1.50}`},
			{"prediction.id", String, `"p"`, `"p"`},
			{"prediction.n", Number, `1.5`, `1.50`},
			{"prediction.event", Missing, "", ""},
			{"other", Missing, "", ""},
		}},
		{"white space", "\n{ \"event\" : [ 1 , 2 ] ,\t\"prediction\" : { \"id\" : null } } ", []want{
			{"event", Array, `[1,2]`, `[ 1 , 2 ]`},
			{"prediction", Object, `{"id":null}`, `{ "id" : null }`},
			{"prediction.id", Null, `null`, `null`},
		}},
		{"escaped keys", `{"\u0065vent":true,"pr\u0065diction":{"i\u0064":"\u0041\/"}}`, []want{
			{"event", Bool, `true`, `true`},
			{"prediction.id", String, `"A/"`, `"\u0041\/"`},
		}},
		{"repeated key", `{"event":"a","event":"b"}`, []want{{"event", String, `"b"`, `"b"`}}},
		{"repeated through an escape", `{"event":"a","\u0065vent":2}`, []want{{"event", Number, `2`, `2`}}},
		{"repeated below", `{"prediction":{"id":"A","status":"x","id":"B"}}`, []want{
			{"prediction", Object, `{"id":"B","status":"x"}`, `{"id":"A","status":"x","id":"B"}`},
			{"prediction.id", String, `"B"`, `"B"`},
			{"prediction.status", String, `"x"`, `"x"`},
		}},
		{"repeated parent", `{"prediction":{"id":"A","status":"x"},"prediction":{"id":"B"}}`, []want{
			{"prediction.id", String, `"B"`, `"B"`},
			{"prediction.status", Missing, "", ""},
		}},
		{"parent replaced by a scalar", `{"prediction":{"id":"A"},"prediction":7}`, []want{
			{"prediction", Number, `7`, `7`},
			{"prediction.id", Missing, "", ""},
		}},
		{"parent is an array", `{"prediction":[{"id":"A"},"id","B"]}`, []want{{"prediction.id", Missing, "", ""}}},
		{"array in front", `{"prediction":{"id":[[{"id":3}]],"x":{"id":4}}}`, []want{
			{"prediction.id", Array, `[[{"id":3}]]`, `[[{"id":3}]]`},
			{"prediction.x", Object, `{"id":4}`, `{"id":4}`},
		}},
		{"same key deeper", `{"x":{"prediction":{"id":1}},"y":{"id":2,"event":3}}`, []want{
			{"prediction.id", Missing, "", ""}, {"event", Missing, "", ""}, {"x.prediction", Object, `{"id":1}`, `{"id":1}`},
		}},
		{"top is an array", `[{"event":1}]`, []want{{"event", Missing, "", ""}}},
		{"top is a scalar", `"event"`, []want{{"event", Missing, "", ""}}},
		{"empty containers", `{"event":{},"prediction":{"id":[ ]}}`, []want{
			{"event", Object, `{}`, `{}`}, {"prediction.id", Array, `[]`, `[ ]`},
		}},
		{"reordered top", `{"event":"e","7":0,"prediction":{"id":"p"},"1":1}`, []want{
			{"event", String, `"e"`, `"e"`}, {"prediction.id", String, `"p"`, `"p"`}, {"7", Number, `0`, `0`}, {"1", Number, `1`, `1`},
			{"prediction", Object, `{"id":"p"}`, `{"id":"p"}`},
		}},
		{"reordered everywhere", `{"prediction":{"b":[{"z":1,"0":2}],"id":{"y":1,"3":2,"1":{"q":1,"q":2}},"2":1e20},"0":-0}`, []want{
			{"prediction", Object, `{"2":100000000000000000000,"b":[{"0":2,"z":1}],"id":{"1":{"q":2},"3":2,"y":1}}`,
				`{"b":[{"z":1,"0":2}],"id":{"y":1,"3":2,"1":{"q":1,"q":2}},"2":1e20}`},
			{"prediction.id", Object, `{"1":{"q":2},"3":2,"y":1}`, `{"y":1,"3":2,"1":{"q":1,"q":2}}`},
			{"prediction.2", Number, `100000000000000000000`, `1e20`},
			{"0", Number, `0`, `-0`},
		}},
		{"long numbers", `{"a":1e20,"b":[12e99,-1e-6],"c":"x","d":12e-9}`, []want{
			{"a", Number, `100000000000000000000`, `1e20`}, {"b", Array, `[1.2e+100,-0.000001]`, `[12e99,-1e-6]`},
			{"c", String, `"x"`, `"x"`}, {"d", Number, `1.2e-8`, `12e-9`},
		}},
		{"overflow", `{"a":1e999}`, []want{{"a", Number, `null`, `1e999`}}},
		{"prototype", `{"__proto__":{"id":1}}`, []want{{"__proto__.id", Number, `1`, `1`}}},
		{"empty key", `{"":{"":5}}`, []want{{".", Number, `5`, `5`}, {"", Object, `{"":5}`, `{"":5}`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var paths [][]string
			for _, w := range c.want {
				paths = append(paths, strings.Split(w.path, "."))
			}
			d := mustParse(t, c.in, Limits{}, NewSelector(paths...))
			for i, w := range c.want {
				v := d.Value(i)
				if v.Kind() != w.kind || string(v.Raw()) != w.raw || c.in[v.Start:v.End] != w.src {
					t.Errorf("%s: got %v %q from %q, want %v %q from %q",
						w.path, v.Kind(), v.Raw(), c.in[v.Start:v.End], w.kind, w.raw, w.src)
				}
			}
		})
	}
}

func TestValueText(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", `"abc"`, "abc"},
		{"short escapes", `"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t"},
		{"control", `"a\u0000\u001F"`, "a\x00\x1f"},
		{"pair", `"\ud83d\ude00!"`, "😀!"},
		{"lone high", `"a\ud83dz"`, "a\ufffdz"},
		{"lone low", `"\ude00"`, "\ufffd"},
		{"two highs and a low", `"\ud83d\ud83d\ude00"`, "\ufffd😀"},
		{"escaped backslash before u", `"\\u0041"`, `\u0041`},
		{"raw", `"日本"`, "日本"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := mustParse(t, `{"k":`+c.in+`}`, Limits{}, NewSelector([]string{"k"}))
			if got, ok := d.Value(0).Text(); !ok || got != c.want {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
	t.Run("not a string", func(t *testing.T) {
		d := mustParse(t, `{"k":["x"]}`, Limits{}, NewSelector([]string{"k"}))
		if s, ok := d.Value(0).Text(); ok || s != "" {
			t.Errorf("got %q, %v", s, ok)
		}
		for _, i := range []int{-1, 1} {
			if v := d.Value(i); v.Kind() != Missing || v.Raw() != nil {
				t.Errorf("path %d is %v", i, v.Kind())
			}
		}
	})
}

func TestSelectorPaths(t *testing.T) {
	t.Run("more than fit into a document", func(t *testing.T) {
		var paths [][]string
		var in strings.Builder
		in.WriteString(`{"z":0`)
		for i := range 3 * inlineSlots {
			paths = append(paths, []string{fmt.Sprint("k", i)})
			fmt.Fprintf(&in, `,"k%d":%d`, i, i)
		}
		in.WriteString(`,"1":1}`)
		d := mustParse(t, in.String(), Limits{}, NewSelector(paths...))
		for i := range paths {
			if got := string(d.Value(i).Raw()); got != fmt.Sprint(i) {
				t.Errorf("path %d is %q", i, got)
			}
		}
	})
	t.Run("equal paths", func(t *testing.T) {
		d := mustParse(t, `{"a":{"b":1}}`, Limits{}, NewSelector([]string{"a", "b"}, []string{"a"}, []string{"a", "b"}, []string{"a"}))
		for i, want := range []string{`1`, `{"b":1}`, `1`, `{"b":1}`} {
			if got := string(d.Value(i).Raw()); got != want {
				t.Errorf("path %d is %q, want %q", i, got, want)
			}
		}
	})
	for _, path := range [][]string{{}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(path), " keys"), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			NewSelector(path)
		})
	}
	t.Run("concurrent use", func(t *testing.T) {
		sel := NewSelector([]string{"a", "b"})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 200 {
					in := fmt.Sprintf(`{"z":1,"a":{"c":1e20,"b":"%d-%d"},"1":2,"z":3}`, g, i)
					d, err := Parse([]byte(in), Limits{}, sel)
					if err != nil {
						t.Error(err)
						return
					}
					if s, _ := d.Value(0).Text(); s != fmt.Sprintf("%d-%d", g, i) {
						t.Errorf("got %q", s)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestDuplicateKey(t *testing.T) {
	for _, c := range []struct {
		name, in, key string
		off           int // -1 for none
	}{
		{"none", `{"a":1,"b":{"a":1},"A":2}`, "", -1},
		{"plain", `{"a":1,"b":2,"a":3}`, "a", 13},
		{"through an escape", `{"a":1, "\u0061":2}`, "a", 8},
		{"array index", `{"1":1,"0":2,"1":3}`, "1", 13},
		{"leading white space", "  {\"a\":1 , \"a\":2}", "a", 11},
		{"nested before the outer", `{"a":{"b":1,"b":2},"a":3}`, "b", 12},
		{"nested in the repetition", `{"a":1,"a":{"b":1,"b":2}}`, "a", 7},
		{"in a dropped member", `{"x":[{"q":1,"q":2}],"x":0}`, "q", 13},
		{"third", `{"a":1,"a":2,"a":3}`, "a", 7},
		{"two keys, order of repetition", `{"a":1,"b":2,"b":3,"a":4}`, "b", 13},
		{"lone surrogate", `{"\ud800":1,"\uD800":2}`, "\ufffd", 12},
		{"different lone surrogates", `{"\ud800":1,"\ud801":2}`, "", -1},
		{"quote in the key", `{"\"":1,"\\\"":1,"\u0022":2}`, `"`, 17},
		{"empty", `{"":1,"":2}`, "", 6},
		{"after a long number", `{"a":1e20,"a":2}`, "a", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, off, found := mustParse(t, c.in, Limits{}, nil).DuplicateKey()
			if found != (c.off >= 0) {
				t.Fatalf("found is %v: %q at %d", found, key, off)
			}
			if found && (key != c.key || off != c.off) {
				t.Errorf("got %q at %d, want %q at %d", key, off, c.key, c.off)
			}
		})
	}
	t.Run("in a crowd", func(t *testing.T) {
		var in strings.Builder
		in.WriteString(`{"first":0`)
		for i := range 5000 {
			fmt.Fprintf(&in, `, "k%d":0`, i)
		}
		at := in.Len() + 1
		in.WriteString(`,"k\u0037":1,"first":1}`)
		key, off, found := mustParse(t, in.String(), Limits{}, nil).DuplicateKey()
		if !found || key != "k7" || off != at {
			t.Errorf("got %q at %d, %v; want k7 at %d", key, off, found, at)
		}
	})
}

func TestMembers(t *testing.T) {
	in := " { \"a\" : 1 ,\"\\u0062\\\"\":[ 1,{\"x\":2} ], \"a\":\"s\" , \"3\":{ } }\n"
	d := mustParse(t, in, Limits{Members: true}, nil)
	want := []struct{ key, start, value string }{
		{"a", `"a" : 1`, `1`}, {`b"`, `"\u0062\"":[`, `[ 1,{"x":2} ]`}, {"a", `"a":"s"`, `"s"`}, {"3", `"3":{ }`, `{ }`},
	}
	ms := d.Members()
	if len(ms) != len(want) {
		t.Fatalf("%d members: %v", len(ms), ms)
	}
	for i, w := range want {
		m := ms[i]
		if m.Key != w.key || !strings.HasPrefix(in[m.KeyStart:], w.start) || in[m.ValueStart:m.ValueEnd] != w.value {
			t.Errorf("member %d: %+v is %q", i, m, in[m.ValueStart:m.ValueEnd])
		}
	}
	for range d.EachMember() {
		break // stopping early is fine
	}
	for _, c := range []struct {
		name, in string
		lim      Limits
	}{
		{"not asked for", `{"a":1}`, Limits{}},
		{"empty object", `{ }`, Limits{Members: true}},
		{"array", `[{"a":1},2]`, Limits{Members: true}},
		{"scalar", `1`, Limits{Members: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if ms := mustParse(t, c.in, c.lim, nil).Members(); ms != nil {
				t.Errorf("got %v", ms)
			}
		})
	}
	t.Run("cutting members out", func(t *testing.T) {
		in := `{"keep":1, "cut":[1,2] ,"also":"x"}`
		d := mustParse(t, in, Limits{Members: true}, nil)
		m := d.Members()
		rest := in[:m[1].KeyStart] + in[m[2].KeyStart:]
		if rest != `{"keep":1, "also":"x"}` || !json.Valid([]byte(rest)) {
			t.Errorf("got %s", rest)
		}
	})
}

func TestKindAndDepth(t *testing.T) {
	for _, c := range []struct {
		in    string
		kind  Kind
		name  string
		depth int
	}{
		{"null", Null, "null", 0}, {" true", Bool, "bool", 0}, {"false", Bool, "bool", 0}, {"-1", Number, "number", 0},
		{`"x"`, String, "string", 0}, {"\n[ ]", Array, "array", 1}, {"{}", Object, "object", 1},
		{`[[],[[1]],{}]`, Array, "array", 3}, {`{"a":{"b":[]},"c":1}`, Object, "object", 3},
	} {
		t.Run(c.in, func(t *testing.T) {
			d := mustParse(t, c.in, Limits{}, nil)
			if d.Kind() != c.kind || d.Kind().String() != c.name || d.Depth() != c.depth {
				t.Errorf("%v, depth %d", d.Kind(), d.Depth())
			}
		})
	}
	if Missing.String() != "missing" {
		t.Error(Missing)
	}
}

// TestFoldedKey: what a parser that ignores case would take for a wanted key,
// where it would look for it, and nothing else.
func TestFoldedKey(t *testing.T) {
	sel := NewSelector([]string{"id"}, []string{"status"}, []string{"prediction", "id"}, []string{"kind"})
	for src, want := range map[string]string{
		`{"id":1,"status":2,"prediction":{"id":3}}`: "",
		`{"id":1,"ID":2}`:                                 "ID",
		`{"Id":2}`:                                        "Id",
		`{"\u0049d":2}`:                                   "Id",
		`{"\u017ftatus":1}`:                               "ſtatus",
		`{"Kind":1}`:                                      "Kind",
		`{"Prediction":{"id":3}}`:                         "Prediction",
		`{"prediction":{"ID":3}}`:                         "ID",
		`{"prediction":{"Status":3}}`:                     "",
		`{"prediction":{"x":{"ID":3}}}`:                   "",
		`{"x":{"ID":3}}`:                                  "",
		`{"prediction":[{"ID":3}]}`:                       "",
		`[{"ID":3}]`:                                      "",
		`{"id ":1,"i d":1,"idd":1,"i":1,"":1}`:            "",
		`{"x":"ID","prediction":{"y":["ID"]},"z":["ID"]}`: "",
	} {
		d, err := Parse([]byte(src), Limits{}, sel)
		if err != nil {
			t.Fatal(err)
		}
		key, found := d.FoldedKey()
		if key != want || found != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", src, key, found, want)
		}
	}
}

// TestFoldedTwin: only what stands beside the wanted key itself is ambiguous.
func TestFoldedTwin(t *testing.T) {
	sel := NewSelector([]string{"id"}, []string{"type"}, []string{"prediction"}, []string{"prediction", "id"})
	for src, want := range map[string]string{
		`{"ID":1,"Type":2,"Prediction":{"Id":3}}`: "",
		`{"id":1,"type":2}`:                       "",
		`{"id":1,"ID":2}`:                         "ID",
		`{"ID":2,"id":1}`:                         "ID",
		`{"ID":1,"TYPE":2,"Type":3,"type":4}`:     "TYPE",
		`{"prediction":{"ID":3}}`:                 "",
		`{"prediction":{"ID":3,"id":3}}`:          "ID",
		`{"id":null,"iD":1}`:                      "iD",
		`{"x":{"id":1,"ID":2}}`:                   "",
	} {
		d, err := Parse([]byte(src), Limits{}, sel)
		if err != nil {
			t.Fatal(err)
		}
		key, found := d.FoldedTwin()
		if key != want || found != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", src, key, found, want)
		}
	}
}
