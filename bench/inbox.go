package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// drainEvents is the concurrency of an inbox that is drained.
	drainEvents = 64
	// fewEvents is how many a round adds to an inbox that may hold no more than
	// max_events.
	fewEvents = 6000
	// receiptRate is the rate at which the way to the app is timed.
	receiptRate = 200
)

// inboxRoute is the edge with an inbox for an app.
func inboxRoute(app, options string) string {
	return "replicate_webhook {\n\t\t\tsecret {env." + secretEnv + "}\n\t\t\tinbox " + app + " {\n\t\t\t\tmax_events 1048576\n\t\t\t\tmax_bytes 1TiB\n" + options + "\t\t\t}\n\t\t}"
}

// startInbox starts a Caddy with an inbox for the app at an address.
func (l *lab) startInbox(ctx context.Context, name, app, options string) (*caddy, error) {
	return l.startCaddy(ctx, caddyConfig{name: name, sites: map[string]string{"edge": inboxRoute(app, options)}})
}

// nobody returns an address where nothing listens.
func nobody() (string, error) {
	addrs, err := freePorts(1)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// runInbox compares acceptance into an inbox with a proxy that checks nothing, and
// times the way to the app.
func (l *lab) runInbox(ctx context.Context) (section, error) {
	down, err := nobody()
	if err != nil {
		return section{}, err
	}
	plain, err := l.startCaddy(ctx, caddyConfig{name: "inbox-plain", sites: map[string]string{"edge": proxyRoute(l.app.addr, "")}})
	if err != nil {
		return section{}, err
	}
	defer plain.stop()
	stopped, err := l.startInbox(ctx, "inbox-stopped", down, "")
	if err != nil {
		return section{}, err
	}
	defer stopped.stop()
	running, err := l.startInbox(ctx, "inbox-running", l.app.addr, "")
	if err != nil {
		return section{}, err
	}
	defer running.stop()
	sides := func() []*contender {
		s := []*contender{
			caddyContender("reverse_proxy", "edge", plain),
			caddyContender("inbox, app stopped", "edge", stopped),
			caddyContender("inbox, app running", "edge", running),
		}
		s[0].traffic, s[1].traffic, s[2].traffic = l.unique, l.kept, l.passed
		return s
	}
	rates := sides()
	if err := l.compare(ctx, "inbox", l.closed, rates...); err != nil {
		return section{}, err
	}
	late := sides()[:2]
	if err := l.compare(ctx, "inbox-latency", l.open, late...); err != nil {
		return section{}, err
	}
	receipt := caddyContender("inbox, app running", "edge", running)
	receipt.traffic = l.timed
	if err := l.compare(ctx, "inbox-receipt", l.openAt(receiptRate), receipt); err != nil {
		return section{}, err
	}
	s := section{
		title: "An inbox",
		text: fmt.Sprintf("%d connections post signed events, each one new. With an inbox each is committed to SQLite, with its body and headers, before its 200. "+
			"Where the app runs it is given each event exactly once, within seconds of the last response. All run on the same cores.", l.connections),
		table: rateTable(rates...),
	}
	s.atLeast("events accepted with the app stopped, of plain reverse_proxy's requests/s", ratios(rates[1].rates, rates[0].rates), 1.3)
	s.atLeast("events accepted and passed on, of plain reverse_proxy's requests/s", ratios(rates[2].sustained, rates[0].rates), 0.5)
	s.atMost("events accepted and passed on, time until the app has the last one", rates[2].tails, 1000, "ms")
	s.atMost("acceptance at a fixed rate, p99 above plain reverse_proxy", differences(late[1].p99, late[0].p99), 3, "ms")
	s.atMost(fmt.Sprintf("from acceptance to the app's receipt at %d/s, p50", receiptRate), receipt.started.p50, 2, "ms")
	s.atMost(fmt.Sprintf("from acceptance to the app's receipt at %d/s, p99", receiptRate), receipt.started.p99, 10, "ms")
	return s, nil
}

// kept returns traffic of events that are all new, and of which none reaches the app.
func (l *lab) kept(ctx context.Context) (traffic, error) {
	t, err := l.unheard(ctx, nil)
	t.feeds = nil
	for range l.connections {
		t.feeds = append(t.feeds, l.signer.uniqueFeed())
	}
	return t, err
}

// passed returns traffic of events that are all new, with the check that the app gets
// each of them exactly once, soon.
func (l *lab) passed(ctx context.Context) (traffic, error) {
	t, err := l.unique(ctx)
	if err != nil {
		return t, err
	}
	once := t.check
	t.check = func(ctx context.Context, r *result) error {
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		err := once(ctx, r)
		for ; err != nil && ctx.Err() == nil; err = once(ctx, r) {
			time.Sleep(5 * time.Millisecond)
		}
		r.delivered = &delivered{tail: time.Since(r.ended)}
		return err
	}
	return t, nil
}

// timed is like passed, and times each event from its response to the app's receipt. One
// that comes before its response takes no time.
func (l *lab) timed(ctx context.Context) (traffic, error) {
	t, err := l.passed(ctx)
	if err != nil {
		return t, err
	}
	if _, err := l.app.receipts(ctx); err != nil { // and from now on
		return t, err
	}
	sent := make([]uint64, len(t.feeds))
	var mu sync.Mutex
	answered := make(map[uint64]time.Time)
	for i, next := range t.feeds {
		t.feeds[i] = func() ([]byte, bool) {
			request, ok := next()
			sent[i], _ = numberOf(request)
			return request, ok
		}
	}
	t.answered = func(feed int) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		answered[sent[feed]] = now
	}
	came := t.check
	t.check = func(ctx context.Context, r *result) error {
		if err := came(ctx, r); err != nil {
			return err
		}
		times, err := l.app.receipts(ctx)
		if err != nil {
			return err
		}
		for n, at := range answered {
			got, ok := times[n]
			if !ok {
				return fmt.Errorf("the app does not say when it was given event %d", n)
			}
			r.delivered.started = append(r.delivered.started, max(0, got.Sub(at)))
		}
		slices.Sort(r.delivered.started)
		return nil
	}
	return t, nil
}

// receipts returns when the app was given its events since the last call. The first call
// makes it remember.
func (a *app) receipts(ctx context.Context) (map[uint64]time.Time, error) {
	body, err := get(ctx, "http://"+a.addr+arrivalsPath)
	if err != nil {
		return nil, fmt.Errorf("asking the app when it was given its events: %w", err)
	}
	times := make(map[uint64]time.Time)
	for line := range bytes.Lines(body) {
		var n uint64
		var ns int64
		if _, err := fmt.Sscan(string(line), &n, &ns); err != nil {
			return nil, err
		}
		times[n] = time.Unix(0, ns)
	}
	return times, nil
}

// runInboxDrain fills an inbox whose app is down, and starts the app.
func (l *lab) runInboxDrain(ctx context.Context) (section, error) {
	n := 2 * l.queued
	var rates, begins spread
	for round := range l.rounds {
		rate, begin, err := l.drainInbox(ctx, fmt.Sprint(round), n, "")
		if err != nil {
			return section{}, fmt.Errorf("round %d: %w", round+1, err)
		}
		rates, begins = append(rates, rate), append(begins, begin)
	}
	if l.profile != "" {
		file, err := l.profileFile("inbox-drain")
		if err != nil {
			return section{}, err
		}
		if _, _, err := l.drainInbox(ctx, "profile", n, file); err != nil {
			return section{}, err
		}
	}
	s := section{
		title: "Draining an inbox",
		text: fmt.Sprintf("%s events were accepted while nothing listened at the app's address, and wait. Then the app starts. It must get each of them exactly once, with %d at once. "+
			"The rate counts from the first that it gets.", count(float64(n)), drainEvents),
		table: [][]string{
			{"events/s, median (least–greatest)", "first event after the app's start, s"},
			{rates.format("%.0f"), begins.format("%.1f")},
		},
	}
	s.atLeastOf("events/s from an inbox", rates, 6000, "%.0f")
	s.atMost("recovery after the app's return begins within", begins, 5, "s")
	return s, nil
}

// drainInbox returns the rate, in events a second, and how many seconds passed until
// the first one. A CPU profile of the drain goes to the file profile, if it is not "".
func (l *lab) drainInbox(ctx context.Context, name string, n int, profile string) (rate, begin float64, err error) {
	addr, err := nobody()
	if err != nil {
		return 0, 0, err
	}
	c, err := l.startInbox(ctx, "inbox-drain-"+name, addr, fmt.Sprintf("\t\t\t\tconcurrency %d\n", drainEvents))
	if err != nil {
		return 0, 0, err
	}
	defer c.stop()
	lo := l.signer.next.Load()
	if err := l.fillInbox(ctx, c, n); err != nil {
		return 0, 0, err
	}
	hi := l.signer.next.Load()
	if err := l.settle(ctx); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	a, err := startAppAt(ctx, addr)
	if err != nil {
		return 0, 0, err
	}
	defer a.stop()
	if profile != "" {
		saved := make(chan error, 1)
		go func() { saved <- c.saveProfile(ctx, l.duration, profile) }()
		defer func() { err = errors.Join(err, <-saved) }()
	}
	var first time.Time
	for want := expected(lo, hi); ; time.Sleep(5 * time.Millisecond) {
		got, err := a.read(ctx)
		if err != nil {
			return 0, 0, err
		}
		switch now := time.Now(); {
		case got == want:
			return float64(n) / now.Sub(first).Seconds(), first.Sub(start).Seconds(), nil
		case got.count >= want.count, now.Sub(start) > 2*time.Minute:
			return 0, 0, fmt.Errorf("the app was given %d events, not each of %d once", got.count, want.count)
		case got.count > 0 && first.IsZero():
			first = now
		}
	}
}

// fillInbox has n events accepted.
func (l *lab) fillInbox(ctx context.Context, c *caddy, n int) error {
	t, err := l.kept(ctx)
	if err != nil {
		return err
	}
	r, err := load{addrs: []string{c.sites["edge"]}, feeds: limited(t.feeds, n), expect: expectation{status: 200}}.closedLoop(ctx, 30*time.Minute)
	if err == nil && r.requests != n {
		err = fmt.Errorf("%d of %d events were accepted", r.requests, n)
	}
	return err
}

// runInboxMillion compares an inbox in which many events wait with an empty one.
func (l *lab) runInboxMillion(ctx context.Context) (section, error) {
	down, err := nobody()
	if err != nil {
		return section{}, err
	}
	var nodes [2]*caddy
	for i, name := range []string{"inbox-empty", "inbox-million"} {
		if nodes[i], err = l.startInbox(ctx, name, down, ""); err != nil {
			return section{}, err
		}
		defer nodes[i].shutDown()
	}
	if err := l.fillInbox(ctx, nodes[1], l.entries); err != nil {
		return section{}, err
	}
	var starts [2]spread
	t := l.signer.template()
	request := func() []byte { return t.write(l.signer.next.Add(1) - 1) }
	for round := range l.rounds + 1 {
		for i, c := range nodes {
			d, err := c.restart(ctx, c.sites["edge"], request, expectation{status: 200})
			if err != nil {
				return section{}, err
			}
			if round > 0 { // the first brings the files into the page cache
				starts[i] = append(starts[i], d.Seconds())
			}
		}
	}
	var memory [2]int64
	var sides []*contender
	for i, c := range nodes {
		if err := l.fillInbox(ctx, c, l.warmRequests()); err != nil {
			return section{}, err
		}
		if memory[i], err = c.rss(); err != nil {
			return section{}, err
		}
		side := caddyContender([]string{"nothing waits", count(float64(l.entries)) + " events wait"}[i], "edge", c)
		side.traffic = func(ctx context.Context) (traffic, error) {
			t, err := l.kept(ctx)
			t.feeds = limited(t.feeds, fewEvents)
			return t, err
		}
		sides = append(sides, side)
	}
	if err := l.compare(ctx, "inbox-million", l.closed, sides...); err != nil {
		return section{}, err
	}
	s := section{
		title: "An inbox with a million events",
		text:  fmt.Sprintf("%s events of %s bytes wait for an app that is down. Memory is that of the process, restarted and after %s more events.", count(float64(l.entries)), count(bodySize), count(float64(l.warmRequests()))),
		table: rateTable(sides...),
	}
	above := float64(memory[1]-memory[0]) / 1e6
	s.notes = append(s.notes, fmt.Sprintf("Memory: %.0f MB with nothing waiting, %.0f MB more with all. From the start of the process to the first 200: %s s and %s s.",
		float64(memory[0])/1e6, above, starts[0].format("%.2f"), starts[1].format("%.2f")))
	s.atMost("memory of waiting events above an empty inbox", spread{above}, 150, "MB")
	s.atMost("restart with waiting events to the first 200", starts[1], 1.5, "s")
	s.atLeast("acceptance with waiting events, of an empty inbox's events/s", ratios(sides[1].rates, sides[0].rates), 0.9)
	return s, nil
}
