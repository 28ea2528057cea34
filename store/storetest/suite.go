package storetest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// testCase is a test of one store, which B wraps with its clock.
type testCase[B any] struct {
	name string
	test func(*testing.T, B)
}

type (
	trackingCase = testCase[*tracking]
	inboxCase    = testCase[*inbox]
)

// group holds the cases that are told from others by a prefix of their names.
type group[B any] struct {
	name  string
	cases []testCase[B]
}

// runGroups runs each group's cases under its name.
func runGroups[B any](t *testing.T, fresh func(t *testing.T) Resource, wrap func(*bench) B, groups []group[B]) {
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) { runCases(t, fresh, wrap, g.cases) })
	}
}

// runCases runs each case with an open store of its own, which is closed in the end.
func runCases[B any](t *testing.T, fresh func(t *testing.T) Resource, wrap func(*bench) B, cases []testCase[B]) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{t: t, resource: fresh(t)}
			b.clock.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixMilli())
			b.open()
			defer func() { _ = b.s.Close() }()
			c.test(t, wrap(b))
		})
	}
}

var seeds = flag.Uint64("seeds", 4, "how many sequences of random operations each model test runs")

// modelCases returns a case for each seed of a model test. Whoever changes a store
// runs more of them than every test run does:
//
//	go test ./store/... -run /model -seeds 100
func modelCases[B any](model func(t *testing.T, b B, seed uint64)) []testCase[B] {
	cases := make([]testCase[B], *seeds)
	for seed := range *seeds {
		cases[seed] = testCase[B]{fmt.Sprint("seed ", seed), func(t *testing.T, b B) { model(t, b, seed) }}
	}
	return cases
}

// operation is what a model test may do next, with the weight of its chance.
type operation struct {
	weight int
	do     func()
}

// history is the random source of a model test, and what it has done so far.
type history struct {
	rand  *rand.Rand
	steps []string
}

// step notes what is done next, for the report of a failure.
func (h *history) step(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf(format, args...))
}

// do does n random operations, with a check after each. When the test fails, the
// last of them are logged.
func (h *history) do(t *testing.T, n int, operations []operation, check func(i int)) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last steps: %q", h.steps[max(0, len(h.steps)-40):])
		}
	})
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	for i := range n {
		at := h.rand.IntN(total)
		for _, o := range operations {
			if at -= o.weight; at < 0 {
				o.do()
				break
			}
		}
		check(i)
	}
}
