// Command bench measures the whole system: Caddy with this plugin, an app behind
// it and a load generator, as separate processes on loopback, against what people
// would run in its place.
//
//	go -C bench run .
//
// It builds Caddy, runs every scenario in short rounds that alternate between the
// sides compared, prints tables and writes bench/RESULTS.md. README.md beside it
// says what is compared.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rounds      int
	duration    time.Duration
	connections int
	rate        int
	entries     int
	queued      int
	waiting     int
	hanging     int
	soak        time.Duration
	outage      time.Duration
	only        *regexp.Regexp
	out         string
	dir         string
	profile     string
	quick       bool
	whole       bool   // every scenario, and not in haste
	command     string // how to run the same again
}

func main() {
	if serve := serving(os.Args[1:]); serve != nil {
		exitOn(serve())
		return
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	exitOn(err)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, o)
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	stop()
	exitOn(err)
}

// serving returns the server that this binary runs as when the bench starts it,
// nil when it is the bench.
func serving(args []string) func() error {
	if len(args) == 0 {
		return nil
	}
	switch args[0] {
	case serveAppArg:
		return func() error { return serveApp(args[1:]) }
	case serveAPIArg:
		return serveAPI
	case serveIllArg:
		return serveIll
	case serveReceiverArg:
		return func() error { return serveReceiver(args[1:]) }
	}
	return nil
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, error) {
	var o options
	var only string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 5, "rounds of each comparison")
	fs.DurationVar(&o.duration, "duration", 3*time.Second, "time of each side in each round")
	fs.IntVar(&o.connections, "connections", 64, "connections of the load generator")
	fs.IntVar(&o.rate, "rate", 500, "events a second where latency is measured")
	fs.IntVar(&o.entries, "entries", 1_000_000, "live entries of a store with a history")
	fs.IntVar(&o.queued, "queued", 50_000, "deliveries in a queue that is drained")
	fs.IntVar(&o.waiting, "waiting", 200_000, "deliveries that wait for a retry")
	fs.IntVar(&o.hanging, "hanging", 1000, "receivers that hang")
	fs.DurationVar(&o.soak, "soak", 20*time.Minute, "time of the scenario soak, which runs only if -only names it")
	fs.DurationVar(&o.outage, "outage", 5*time.Minute, "time of the scenario outage, which runs only if -only names it")
	fs.StringVar(&only, "only", "", "run only the scenarios that match this `regexp`: "+scenarioNames())
	fs.StringVar(&o.out, "o", "", "write the results to this `file`; default bench/RESULTS.md for a whole run, none with -only or -quick")
	fs.StringVar(&o.dir, "dir", "", "`directory` to make the temporary directory with the stores in; default the system's")
	fs.StringVar(&o.profile, "profile", "", "also run each Caddy once under the profiler and save its CPU profiles in this `directory`")
	fs.BoolVar(&o.quick, "quick", false, "a short run that shows that everything works: 1 round of 500ms, and small stores and queues")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	given := make(map[string]bool)
	o.command = "go -C bench run ."
	fs.Visit(func(f *flag.Flag) {
		given[f.Name] = true
		switch f.Name {
		case "o", "dir", "profile": // where things are put says nothing of the numbers
		default:
			o.command += " -" + f.Name + "=" + shellWord(f.Value.String())
		}
	})
	if o.quick {
		quickly := map[string]func(){
			"rounds":   func() { o.rounds = 1 },
			"duration": func() { o.duration = 500 * time.Millisecond },
			"entries":  func() { o.entries = 20_000 },
			"queued":   func() { o.queued = 4_000 },
			"waiting":  func() { o.waiting = 5_000 },
			"hanging":  func() { o.hanging = 100 },
			"soak":     func() { o.soak = 20 * time.Second },
			"outage":   func() { o.outage = 5 * time.Second },
		}
		for name, set := range quickly {
			if !given[name] {
				set()
			}
		}
	}
	o.whole = only == "" && !o.quick
	return o, o.check(only)
}

// shellWord quotes what a shell would not take as it is.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// check bounds the options: the bench ends, whatever it is asked for.
func (o *options) check(only string) error {
	switch {
	case o.rounds < 1 || o.rounds > 100:
		return fmt.Errorf("-rounds is %d: it must be from 1 to 100", o.rounds)
	case o.duration < 100*time.Millisecond || o.duration > time.Minute:
		// Beyond a few minutes the signed times of repeated events grow old.
		return fmt.Errorf("-duration is %s: it must be from 100ms to 1m", o.duration)
	case o.connections < 1 || o.connections > 1000:
		return fmt.Errorf("-connections is %d: it must be from 1 to 1000", o.connections)
	case o.rate < 1 || o.rate > 100_000:
		return fmt.Errorf("-rate is %d: it must be from 1 to 100000", o.rate)
	case o.entries < 1 || o.entries > 20_000_000:
		return fmt.Errorf("-entries is %d: it must be from 1 to 20000000", o.entries)
	case o.queued < 2 || o.queued > 1_000_000:
		return fmt.Errorf("-queued is %d: it must be from 2 to 1000000", o.queued)
	case o.waiting < 1 || o.waiting > 5_000_000:
		return fmt.Errorf("-waiting is %d: it must be from 1 to 5000000", o.waiting)
	case o.hanging < 1 || o.hanging > 5000:
		return fmt.Errorf("-hanging is %d: it must be from 1 to 5000", o.hanging)
	}
	if o.soak < 10*time.Second || o.soak > 24*time.Hour {
		return fmt.Errorf("-soak is %s: it must be from 10s to 24h", o.soak)
	}
	if o.outage < time.Second || o.outage > 24*time.Hour {
		return fmt.Errorf("-outage is %s: it must be from 1s to 24h", o.outage)
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	for _, s := range scenarios() {
		if o.runs(s) {
			return nil
		}
	}
	return fmt.Errorf("-only %q matches none of %s", only, scenarioNames())
}

// runs reports whether a scenario is part of the run.
func (o *options) runs(s scenario) bool {
	return o.only.MatchString(s.name) && (s.name != soakName && s.name != outageName || o.only.String() != "")
}

func scenarioNames() string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

func run(ctx context.Context, o options) error {
	began := time.Now()
	l, err := newLab(ctx, o)
	if err != nil {
		return err
	}
	defer l.close()
	before, err := l.probeFsync()
	if err != nil {
		return fmt.Errorf("probing the disk: %w", err)
	}
	r := report{command: o.command, quick: o.quick}
	var failed error
	for _, s := range scenarios() {
		if !o.runs(s) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", s.name)
		sec, err := s.run(l, ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			// The others are still worth their time on the terminal, but
			// results with a hole in them are not written.
			err = fmt.Errorf("scenario %s: %w", s.name, err)
			fmt.Fprintln(os.Stderr, "bench:", err)
			failed = errors.Join(failed, err)
			continue
		}
		sec.print(os.Stdout)
		r.sections = append(r.sections, sec)
	}
	if failed != nil {
		return fmt.Errorf("no results were written: %w", failed)
	}
	after, err := l.probeFsync()
	if err != nil {
		return fmt.Errorf("probing the disk: %w", err)
	}
	r.machine = l.machine(began, []time.Duration{before, after})
	fmt.Fprintf(os.Stderr, "done in %s\n", time.Since(began).Round(time.Second))
	return save(&r, l)
}

func save(r *report, l *lab) error {
	out := l.out
	if out == "" && l.whole {
		out = filepath.Join(l.root, "bench", "RESULTS.md")
	}
	if out == "" {
		return nil
	}
	var text bytes.Buffer
	if err := r.write(&text); err != nil {
		return err
	}
	if err := os.WriteFile(out, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
}
