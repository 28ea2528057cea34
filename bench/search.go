package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
)

// hostileKind is a kind of JSON that is searched for the text that takes the
// parser longest.
//
// A text is a unit repeated between open and end. In a unit a # stands for a
// digit that is random in each repetition, and a % for one that counts down with
// the digits % before it.
type hostileKind struct {
	name      string
	seeds     []string // units to begin with
	alphabet  string   // of what is inserted into a unit
	open, end string
	separator string
	nested    bool // units open brackets, which are closed in the end
}

// hostileKinds are the kinds that are searched. Keys that the edge looks for are
// among them, as are the shapes for which the parser has a way of its own.
var hostileKinds = []hostileKind{
	{name: "digits", seeds: []string{"0", "9007199254740993", "0.1234567890123456", "99999999999999999999"}, alphabet: "0123456789.-#", open: "[", end: "]", separator: ","},
	{name: "exponents", seeds: []string{"1e9", "5e-324", "1e22", "9.5e-7", "1.7976931348623157e308"}, alphabet: "0123456789.-+eE#", open: "[", end: "]", separator: ","},
	{name: "small doubles", seeds: []string{"#e-3#", "2.2250738585072011e-308", "2.47032822920623272e-324", "#.##e-31#"}, alphabet: "0123456789.-eE#", open: "[", end: "]", separator: ","},
	{name: "escapes", seeds: []string{`\n`, `\u000a`, `\/`, `\\`, `\"`}, alphabet: `\u0123456789abcdefABCDEFnrt/"b `, open: `["`, end: `"]`},
	{name: "surrogates", seeds: []string{`\uD800`, `\uD83D\uDE00`, `\udc00`, `\ud800\u0041`}, alphabet: `\uDd89abcCEe0123`, open: `["`, end: `"]`},
	{name: "UTF-8", seeds: []string{"é", "日", "😀", "aé", "\u0800"}, alphabet: "aé日😀\u0800\u2028\ufeff\U0010ffff\u0080", open: `["`, end: `"]`},
	{name: "white space", seeds: []string{" 0", "\t\n\r ", `0 `, `[ ]`}, alphabet: " \t\r\n01[],", open: "[", end: "]", separator: ","},
	{name: "depth", seeds: []string{"[", `{"":`, `{"b":0,"1":`, `[0,{"a":`}, alphabet: `[]{}":0,ab1`, open: "[", end: "]", separator: ",", nested: true},
	{name: "small values", seeds: []string{`""`, "[]", "{}", "true", "null"}, alphabet: `[]{}":0,true`, open: "[", end: "]", separator: ","},
	{name: "small objects", seeds: []string{`{"b":0,"1":0}`, `{"":0,"":0}`, `{"a":0,"b":0,"c":0}`, `{"2":1e9,"1":1e9}`}, alphabet: `{}":0,ab12e#`, open: "[", end: "]", separator: ","},
	{name: "names", seeds: []string{`"a######":0`, `"######a":1e9`, `"a%%%%%%":0`}, alphabet: `":0,abe1#%`, open: "{", end: "}", separator: ","},
	{name: "indices", seeds: []string{`"######":0`, `"%%%%%%":0`, `"1#######":1e9`, `"a":0,"##":0`}, alphabet: `":0,ae1#%`, open: "{", end: "}", separator: ","},
	{name: "repeated keys", seeds: []string{`"":0`, `"a":0,"b":0`, `"#":0`, `"##":{"a":0,"a":0}`}, alphabet: `{}":0,abe1#`, open: "{", end: "}", separator: ","},
	{name: "selected keys", seeds: []string{`"id":0`, `"event":0`, `"evenT":0`, `"prediction":{"id":0}`, `"prediction":{"statuS":1e9}`}, alphabet: `{}":0,idevntIDEVNTstau1\u006`, open: "{", end: "}", separator: ","},
}

const (
	// searchSize is the size of the texts that the search measures.
	searchSize = 256 << 10
	// maxUnit is the length of the longest unit: one that is longer is not
	// repeated often enough for what it begins with to matter.
	maxUnit = 400
	// nesting stays below the depth that the parser accepts.
	nesting = 9000
)

// specimen is a unit and what a text of it costs.
type specimen struct {
	unit  string
	cost  float64 // ms of the parser for each MiB
	tried int     // how many the search has measured
}

// errInvalid: the parser refuses the text at once, so that it costs nothing.
var errInvalid = errors.New("not JSON")

var searchSelector = edge.NewSelector()

// search changes units at random for the given time, and keeps what takes the
// parser longer. The best are measured again at full size.
func (k *hostileKind) search(ctx context.Context, limit time.Duration, size int) (specimen, error) {
	r := rand.New(rand.NewPCG(0x686f7374, 0x696c65))
	const keep = 6
	var best []specimen
	tried := 0
	seen := make(map[string]bool)
	add := func(unit string) error {
		if len(unit) == 0 || len(unit) > maxUnit || seen[unit] {
			return nil
		}
		seen[unit] = true
		s, err := k.measured(unit, searchSize)
		if errors.Is(err, errInvalid) {
			return nil
		}
		if err != nil {
			return err
		}
		tried++
		at := 0
		for at < len(best) && best[at].cost >= s.cost {
			at++
		}
		if at < keep {
			best = append(best[:at], append([]specimen{s}, best[at:]...)...)
			best = best[:min(len(best), keep)]
		}
		return nil
	}
	for _, unit := range k.seeds {
		if err := add(unit); err != nil {
			return specimen{}, err
		}
	}
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; {
		if err := add(k.mutate(r, best[r.IntN(len(best))].unit)); err != nil {
			return specimen{}, err
		}
	}
	var worst specimen
	for _, s := range best {
		full, err := k.measured(s.unit, size)
		if err != nil {
			return specimen{}, err
		}
		if full.cost > worst.cost {
			worst = full
		}
	}
	worst.tried = tried
	return worst, ctx.Err()
}

// mutate changes a unit in one to three places.
func (k *hostileKind) mutate(r *rand.Rand, unit string) string {
	alphabet, u := []rune(k.alphabet), []rune(unit)
	for range 1 + r.IntN(3) {
		at := r.IntN(len(u) + 1)
		to := min(len(u), at+1+r.IntN(4))
		letter := alphabet[r.IntN(len(alphabet))]
		switch r.IntN(6) {
		case 0: // insert
			u = append(u[:at:at], append([]rune{letter}, u[at:]...)...)
		case 1: // remove
			u = append(u[:at:at], u[to:]...)
		case 2: // replace
			if at < len(u) {
				u = append(u[:at:at], append([]rune{letter}, u[at+1:]...)...)
			}
		case 3: // repeat a piece
			u = append(u[:to:to], append(append([]rune(nil), u[at:to]...), u[to:]...)...)
		case 4: // append another unit
			other := k.seeds[r.IntN(len(k.seeds))]
			u = append(append(u[:len(u):len(u)], []rune(k.separator)...), []rune(other)...)
		case 5: // a long run
			run := []rune(strings.Repeat(string(letter), 1<<r.IntN(6)))
			u = append(u[:at:at], append(run, u[at:]...)...)
		}
	}
	return string(u)
}

// measured parses a text of the unit a few times, and returns the least time.
func (k *hostileKind) measured(unit string, size int) (specimen, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	text := k.text(unit, size)
	if text == nil {
		return specimen{}, errInvalid
	}
	least := time.Duration(1 << 62)
	for range 3 {
		start := threadCPU()
		if _, err := ecmajson.Parse(text, ecmajson.Limits{}, searchSelector); err != nil {
			return specimen{}, errInvalid
		}
		least = min(least, threadCPU()-start)
	}
	return specimen{unit: unit, cost: float64(least) / float64(time.Millisecond) / (float64(len(text)) / (1 << 20))}, nil
}

// text repeats the unit up to the size; nil when that is no JSON by its brackets.
func (k *hostileKind) text(unit string, size int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(len(unit))))
	b := append(make([]byte, 0, size+maxUnit), k.open...)
	if !k.nested {
		for i := 0; len(b)+len(unit)+len(k.separator)+len(k.end) <= size; i++ {
			if i > 0 {
				b = append(b, k.separator...)
			}
			b = appendUnit(b, unit, i, r)
		}
		return append(b, k.end...)
	}
	closing, ok := closers(unit)
	if !ok || len(closing) == 0 {
		return nil
	}
	// Towers of units, each closed again.
	levels := max(1, min(nesting/len(closing), size/2/(len(unit)+len(closing))))
	for i := 0; len(b) == len(k.open) || len(b)+levels*(len(unit)+len(closing)) < size; i++ {
		if i > 0 {
			b = append(b, k.separator...)
		}
		for n := range levels {
			b = appendUnit(b, unit, n, r)
		}
		b = append(b, '0')
		for range levels {
			b = append(b, closing...)
		}
	}
	return append(b, k.end...)
}

// appendUnit appends the unit with its digits filled in.
func appendUnit(b []byte, unit string, i int, r *rand.Rand) []byte {
	from := len(b)
	b = append(b, unit...)
	down := 999_999_999 - i
	for at := len(b) - 1; at >= from; at-- {
		switch b[at] {
		case '#':
			b[at] = '0' + byte(r.IntN(10))
			if at == from || b[at-1] != '#' && !(b[at-1] >= '0' && b[at-1] <= '9') {
				// The first digit of a number is not 0.
				b[at] = '1' + byte(r.IntN(9))
			}
		case '%':
			b[at] = '0' + byte(down%10)
			down /= 10
		}
	}
	return b
}

// closers returns the brackets that close those that the unit leaves open.
func closers(unit string) (closing []byte, ok bool) {
	var open []byte
	quoted := false
	for i := 0; i < len(unit); i++ {
		switch c := unit[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			open = append(open, c+2) // ']' is '['+2 and '}' is '{'+2
		case c == ']' || c == '}':
			if len(open) == 0 || open[len(open)-1] != c {
				return nil, false
			}
			open = open[:len(open)-1]
		}
	}
	for i := len(open) - 1; i >= 0; i-- {
		closing = append(closing, open[i])
	}
	return closing, true
}
