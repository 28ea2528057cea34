// Command ecmajson-diff compares package ecmajson with Node: for random texts,
// valid and not, both have to accept or refuse alike and to give the same bytes
// for JSON.stringify(JSON.parse(text)).
//
//	go run ./scripts/ecmajson-diff -n 100000 -seed 1
//
// It prints the first differences and a closing count. Exit status: 0 when there
// is no difference, 1 when there is, 2 when node cannot be run; "go run" prints
// the status and itself exits with 1 for both.
package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// script answers each line of base64 with "=" and the base64 of the form, or
// with "!" when JSON.parse throws, or "?" when anything else goes wrong.
const script = `
const lines = require('readline').createInterface({input: process.stdin, crlfDelay: Infinity});
let out = [];
lines.on('line', line => {
  const text = Buffer.from(line, 'base64').toString('utf8');
  let answer, value, parsed = false;
  try { value = JSON.parse(text); parsed = true; } catch (e) { answer = e instanceof SyntaxError ? '!' : '?' + e; }
  if (parsed) {
    try { answer = '=' + Buffer.from(JSON.stringify(value), 'utf8').toString('base64'); } catch (e) { answer = '?' + e; }
  }
  out.push(answer);
  if (out.length >= 256) { process.stdout.write(out.join('\n') + '\n'); out = []; }
});
lines.on('close', () => process.stdout.write(out.map(s => s + '\n').join('')));
`

func main() {
	n := flag.Int("n", 100000, "number of texts")
	seed := flag.Uint64("seed", 1, "seed of the random texts")
	show := flag.Int("show", 10, "differences to print")
	flag.Parse()
	count, valid, differ, err := run(*n, *seed, *show)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ecmajson-diff:", err)
		if errors.Is(err, errNode) {
			os.Exit(2)
		}
		os.Exit(1)
	}
	fmt.Printf("seed %d: %d texts compared, %d of them valid, %d differences\n", *seed, count, valid, differ)
	if differ > 0 {
		os.Exit(1)
	}
}

var errNode = errors.New("cannot run node, which has to be in the PATH for the comparison")

func run(n int, seed uint64, show int) (count, valid, differ int, err error) {
	cmd := exec.Command("node", "-e", script)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, 0, 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, fmt.Errorf("%w: %w", errNode, err)
	}

	// The texts are made twice from one seed, once for node and once for us, so
	// that none has to be kept while node lags behind.
	sent := make(chan error, 1)
	go func() { sent <- send(in, n, seed) }()

	g := newGenerator(seed)
	answers := bufio.NewReaderSize(out, 1<<20)
	for range n {
		text := g.text()
		line, err := answers.ReadString('\n')
		if err != nil {
			return count, valid, differ, fmt.Errorf("node stopped after %d texts: %w", count, err)
		}
		count++
		theirs, err := decode(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return count, valid, differ, err
		}
		ours := "refused"
		if d, err := ecmajson.Parse(text, ecmajson.Limits{}, nil); err == nil {
			valid++
			ours = "form " + string(d.Bytes())
		}
		if ours != theirs {
			if differ++; differ <= show {
				fmt.Printf("text %q\n  node     %.2000q\n  ecmajson %.2000q\n", text, theirs, ours)
			}
		}
	}
	if err := <-sent; err != nil {
		return count, valid, differ, err
	}
	return count, valid, differ, cmd.Wait()
}

func send(in io.WriteCloser, n int, seed uint64) error {
	g := newGenerator(seed)
	w := bufio.NewWriterSize(in, 1<<20)
	for range n {
		fmt.Fprintln(w, base64.StdEncoding.EncodeToString(g.text()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return in.Close()
}

// decode returns node's output in the form of ours.
func decode(answer string) (string, error) {
	switch {
	case answer == "!":
		return "refused", nil
	case strings.HasPrefix(answer, "="):
		form, err := base64.StdEncoding.DecodeString(answer[1:])
		return "form " + string(form), err
	}
	return "", fmt.Errorf("node answered %q", answer)
}

// newGenerator returns a generator of the same texts for the same seed.
func newGenerator(seed uint64) *generator {
	return &generator{r: rand.New(rand.NewPCG(seed, 0x6563616d61))}
}

// text returns the next text: a valid one, or one with a few bytes changed.
func (g *generator) text() []byte {
	g.b = g.b[:0]
	g.budget = 1 + g.r.IntN(60)
	g.spaced = g.r.IntN(3)
	switch g.r.IntN(40) {
	case 0:
		g.deep()
	case 1:
		g.crowd()
	default:
		g.space()
		g.value(0)
		g.space()
	}
	b := append([]byte(nil), g.b...)
	if g.r.IntN(4) == 0 {
		if m := g.mutate(append([]byte(nil), b...)); utf8.Valid(m) {
			return m
		}
	}
	return b
}
