package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// contender is one side of a comparison.
type contender struct {
	name    string
	addrs   []string
	servers []*process // whose CPU time is counted
	beside  []*process // whose CPU time is counted in that of all
	nodes   []*caddy   // to be profiled; none where there is no Caddy
	expect  expectation
	// traffic makes one measurement's requests, and what is to be checked
	// after it. It runs outside of the measured time.
	traffic func(context.Context) (traffic, error)

	rates, cpu spread // requests/s; µs of server CPU a request
	all        spread // µs of everyone's CPU a request
	latencies         // open loop only

	// Of what is delivered for creates:
	commits           spread // a request
	sustained         spread // requests/s, with the tail in the time
	tails             spread // ms from the last response to the last receipt
	started, terminal latencies
}

// latencies are those of all rounds.
type latencies struct {
	p50, p99, p999 spread // ms
	greatest       time.Duration
}

// add takes in those of a round, sorted.
func (l *latencies) add(sorted []time.Duration) {
	ms := func(q float64) float64 { return float64(quantile(sorted, q)) / float64(time.Millisecond) }
	l.p50 = append(l.p50, ms(0.50))
	l.p99 = append(l.p99, ms(0.99))
	l.p999 = append(l.p999, ms(0.999))
	l.greatest = max(l.greatest, quantile(sorted, 1))
}

// traffic is the requests of one measurement.
type traffic struct {
	feeds    []feed
	answered func(feed int) // see load
	// check judges what came of it, and may add to the result. nil: the responses
	// say it all.
	check func(context.Context, *result) error
}

// caddyContender returns a contender: a site of one or more Caddys.
func caddyContender(name, site string, nodes ...*caddy) *contender {
	c := &contender{name: name, nodes: nodes, expect: expectation{status: 200}}
	for _, n := range nodes {
		c.addrs = append(c.addrs, n.sites[site])
		c.servers = append(c.servers, n.process)
	}
	return c
}

// used returns the CPU time of the servers so far, and that of all processes.
func (c *contender) used() (servers, all time.Duration, err error) {
	if servers, err = cpuOf(c.servers); err != nil {
		return 0, 0, err
	}
	beside, err := cpuOf(c.beside)
	return servers, servers + beside + ownCPU(), err
}

// measureFunc is closed or open loop.
type measureFunc func(context.Context, load) (result, error)

func (l *lab) closed(ctx context.Context, d load) (result, error) {
	return d.closedLoop(ctx, l.duration)
}

func (l *lab) open(ctx context.Context, d load) (result, error) {
	return d.openLoop(ctx, l.rate, l.duration)
}

// openAt is like open, at another rate.
func (l *lab) openAt(rate int) measureFunc {
	return func(ctx context.Context, d load) (result, error) { return d.openLoop(ctx, rate, l.duration) }
}

// compare measures the contenders in turn, in rounds, each round in the other
// direction. Disks and neighbors make such machines swing; sides that are
// measured within seconds of each other swing together.
func (l *lab) compare(ctx context.Context, scenario string, measure measureFunc, sides ...*contender) error {
	return l.compareRounds(ctx, l.rounds, scenario, measure, sides...)
}

// compareRounds is like compare, with another number of rounds.
func (l *lab) compareRounds(ctx context.Context, rounds int, scenario string, measure measureFunc, sides ...*contender) error {
	warm := func(ctx context.Context, d load) (result, error) {
		return d.closedLoop(ctx, min(l.duration, time.Second))
	}
	for _, c := range sides {
		if _, err := l.measure(ctx, warm, c); err != nil {
			return fmt.Errorf("warming up %s: %w", c.name, err)
		}
	}
	for round := range rounds {
		order := slices.Clone(sides)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, c := range order {
			if err := l.settle(ctx); err != nil {
				return err
			}
			if err := l.record(ctx, measure, c); err != nil {
				return fmt.Errorf("%s, round %d: %w", c.name, round+1, err)
			}
		}
	}
	return l.profileAll(ctx, scenario, measure, sides)
}

// record measures one side once and keeps the numbers.
func (l *lab) record(ctx context.Context, measure measureFunc, c *contender) error {
	servers, all, err := c.used()
	if err != nil {
		return err
	}
	r, err := l.measure(ctx, measure, c)
	if err != nil {
		return err
	}
	serversAfter, allAfter, err := c.used()
	if err != nil {
		return err
	}
	c.rates = append(c.rates, r.rate())
	c.cpu = append(c.cpu, float64((serversAfter-servers).Microseconds())/float64(r.requests))
	c.all = append(c.all, float64((allAfter-all).Microseconds())/float64(r.requests))
	if len(r.latencies) > 0 {
		c.latencies.add(r.latencies)
	}
	if d := r.delivered; d != nil {
		c.sustained = append(c.sustained, float64(r.requests)/(r.elapsed+d.tail).Seconds())
		c.commits = append(c.commits, d.commits)
		c.tails = append(c.tails, float64(d.tail)/float64(time.Millisecond))
		c.started.add(d.started)
		c.terminal.add(d.terminal)
	}
	return nil
}

// measure runs one side's traffic and checks what came of it.
func (l *lab) measure(ctx context.Context, measure measureFunc, c *contender) (result, error) {
	t, err := c.traffic(ctx)
	if err != nil {
		return result{}, err
	}
	r, err := measure(ctx, load{c.addrs, t.feeds, c.expect, t.answered})
	if err == nil && r.requests == 0 {
		err = fmt.Errorf("nothing was answered in %s", r.elapsed)
	}
	if err == nil && t.check != nil {
		err = t.check(ctx, &r)
	}
	return r, err
}

// profileFile returns the file of a profile, in the directory for profiles, which it
// makes.
func (l *lab) profileFile(name string) (string, error) {
	return filepath.Join(l.profile, name+".pprof"), os.MkdirAll(l.profile, 0o755)
}

// profileAll runs each side once more with a Caddy of it under the profiler, apart from the
// rounds, since the profiler itself takes time.
func (l *lab) profileAll(ctx context.Context, scenario string, measure measureFunc, sides []*contender) error {
	if l.profile == "" {
		return nil
	}
	for _, c := range sides {
		if len(c.nodes) == 0 {
			continue
		}
		saved := make(chan error, 1)
		file, err := l.profileFile(fileName(scenario + "-" + c.name))
		if err != nil {
			return err
		}
		go func() { saved <- c.nodes[0].saveProfile(ctx, l.duration, file) }()
		_, err = l.measure(ctx, measure, c)
		if failed := <-saved; err == nil {
			err = failed
		}
		if err != nil {
			return fmt.Errorf("profiling %s: %w", c.name, err)
		}
	}
	return nil
}

// fileName returns a contender's name as the name of a file.
func fileName(s string) string {
	out := []byte(s)
	for i, c := range out {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			out[i] = '-'
		}
	}
	return string(out)
}

// rateTable returns a table of the contenders' rates, each as a share of the
// first.
func rateTable(sides ...*contender) [][]string {
	rows := [][]string{{"side", "requests/s, median (least–greatest)", "share of the first", "server CPU a request"}}
	for i, c := range sides {
		share := "1"
		if i > 0 {
			share = ratios(c.rates, sides[0].rates).format("%.2f")
		}
		rows = append(rows, []string{c.name, c.rates.format("%.0f"), share, fmt.Sprintf("%.0f µs", c.cpu.median())})
	}
	return rows
}
