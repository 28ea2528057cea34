package main

import (
	"context"
	"fmt"
)

// scenario is one part of the bench.
type scenario struct {
	name string
	run  func(*lab, context.Context) (section, error)
}

// scenarios in the order in which they run and are written.
func scenarios() []scenario {
	return []scenario{
		{"unique", (*lab).runUnique},
		{"latency", (*lab).runLatency},
		{"duplicates", (*lab).runDuplicates},
		{"forged", (*lab).runForged},
		{"hostile", (*lab).runHostile},
		{"million", (*lab).runMillion},
		{"drain", (*lab).runDrain},
		{"inbox", (*lab).runInbox},
		{"inbox-drain", (*lab).runInboxDrain},
		{"inbox-million", (*lab).runInboxMillion},
		{"create", (*lab).runCreate},
		{"keyed", (*lab).runKeyed},
		{"receipt", (*lab).runReceipt},
		{"waiting", (*lab).runWaiting},
		{"hanging", (*lab).runHanging},
		{"capture", (*lab).runCapture},
		{"stores", (*lab).runStores},
		{"watched", (*lab).runWatched},
		{"packages", (*lab).runPackages},
		{outageName, (*lab).runOutage},
		{soakName, (*lab).runSoak},
	}
}

// pooled raises the number of idle connections that reverse_proxy keeps to the
// app above the number of senders.
const pooled = " {\n\t\t\ttransport http {\n\t\t\t\tkeepalive_idle_conns_per_host 256\n\t\t\t}\n\t\t}"

// runUnique compares the handler with a proxy that checks nothing.
func (l *lab) runUnique(ctx context.Context) (section, error) {
	plain, edge, err := l.proxies(ctx, "unique")
	if err != nil {
		return section{}, err
	}
	defer plain.stop()
	defer edge.stop()
	sides := []*contender{
		caddyContender("reverse_proxy", "default", plain),
		caddyContender("replicate_webhook + reverse_proxy", "default", edge),
		caddyContender("reverse_proxy, 256 idle connections", "pooled", plain),
		caddyContender("replicate_webhook + reverse_proxy, 256 idle connections", "pooled", edge),
	}
	for _, c := range sides {
		c.traffic = l.unique
	}
	if err := l.compare(ctx, "unique", l.closed, sides...); err != nil {
		return section{}, err
	}
	s := section{
		title: "Unique events",
		text: fmt.Sprintf("%d connections post signed events, each one new. The handler verifies, claims, passes on and commits to SQLite before it responds. "+
			"After every round the app is asked whether it was given each event exactly once: it was. "+
			"Caddy's reverse_proxy keeps 32 idle connections to the app by default; the last two rows show both sides with 256.", l.connections),
		table: rateTable(sides...),
	}
	s.atLeast("unique events, of plain reverse_proxy's requests/s", ratios(sides[1].rates, sides[0].rates), 0.85)
	s.notes = append(s.notes, "With 256 idle connections on both sides the ratio is "+ratios(sides[3].rates, sides[2].rates).format("%.2f")+".")
	return s, nil
}

// runLatency compares them at a rate that both can serve with ease.
func (l *lab) runLatency(ctx context.Context) (section, error) {
	plain, edge, err := l.proxies(ctx, "latency")
	if err != nil {
		return section{}, err
	}
	defer plain.stop()
	defer edge.stop()
	sides := []*contender{
		caddyContender("reverse_proxy", "default", plain),
		caddyContender("replicate_webhook + reverse_proxy", "default", edge),
	}
	for _, c := range sides {
		c.traffic = l.unique
	}
	if err := l.compare(ctx, "latency", l.open, sides...); err != nil {
		return section{}, err
	}
	s := section{
		title: "Latency of unique events",
		text:  fmt.Sprintf("%d events a second, sent when they are due whatever became of those before. Each latency counts from when its event was due.", l.rate),
		table: latencyTable(sides...),
	}
	s.atMost("unique events at a fixed rate, p99 above plain reverse_proxy", differences(sides[1].p99, sides[0].p99), 3, "ms")
	return s, nil
}

// proxies starts a Caddy that only passes on and one that has the handler in
// front. They are two processes, as with and without the plugin are.
func (l *lab) proxies(ctx context.Context, scenario string) (plain, edge *caddy, err error) {
	routes := func(route func(app, options string) string) map[string]string {
		return map[string]string{"default": route(l.app.addr, ""), "pooled": route(l.app.addr, pooled)}
	}
	if plain, err = l.startCaddy(ctx, caddyConfig{name: scenario + "-plain", sites: routes(proxyRoute)}); err != nil {
		return nil, nil, err
	}
	if edge, err = l.startCaddy(ctx, caddyConfig{name: scenario + "-edge", sites: routes(edgeRoute)}); err != nil {
		plain.stop()
		return nil, nil, err
	}
	return plain, edge, nil
}

// runDuplicates compares the response to a repeat with an response that takes no
// thought, and with an app that finds the repeat itself.
func (l *lab) runDuplicates(ctx context.Context) (section, error) {
	ceiling, edge, err := l.answerers(ctx, "duplicates", map[string]string{"respond 200": "respond 200"})
	if err != nil {
		return section{}, err
	}
	defer ceiling.stop()
	defer edge.stop()
	respond := caddyContender("respond 200", "respond 200", ceiling)
	respond.traffic = func(ctx context.Context) (traffic, error) { return l.unheard(ctx, l.signer.batch(batchSize)) }
	ours := caddyContender("replicate_webhook", "edge", edge)
	ours.traffic = l.repeats(ours.addrs)
	ours.expect.duplicate = true
	sides := []*contender{respond, ours}
	theirs, reason := l.receiver(ctx)
	var guide *contender
	if theirs != nil {
		guide = &contender{name: "Express receiver of the guide", addrs: []string{theirs.addr}, servers: []*process{theirs.process},
			traffic: l.repeats([]string{theirs.addr}), expect: expectation{status: 200, duplicate: true}}
		sides = append(sides, guide)
	}
	if err := l.compare(ctx, "duplicates", l.closed, sides...); err != nil {
		return section{}, err
	}
	s := section{
		title: "Duplicates",
		text:  fmt.Sprintf("%d events that were just accepted are posted over and over. %s", batchSize, expressText(theirs)),
		table: rateTable(sides...),
	}
	s.atLeast("duplicates, of respond 200's requests/s", ratios(ours.rates, respond.rates), 0.8)
	s.versusExpress("duplicates, times the Express receiver's requests/s", ours, guide, reason)
	return s, nil
}

// runForged compares the refusal of a wrong signature in the same way. It takes
// the whole body to find it, so the connection stays, as it does on the other
// sides.
func (l *lab) runForged(ctx context.Context) (section, error) {
	ceiling, edge, err := l.answerers(ctx, "forged", map[string]string{"respond 401": "respond 401"})
	if err != nil {
		return section{}, err
	}
	defer ceiling.stop()
	defer edge.stop()
	respond := caddyContender("respond 401", "respond 401", ceiling)
	ours := caddyContender("replicate_webhook", "edge", edge)
	sides := []*contender{respond, ours}
	theirs, reason := l.receiver(ctx)
	var guide *contender
	if theirs != nil {
		guide = &contender{name: "Express receiver of the guide", addrs: []string{theirs.addr}, servers: []*process{theirs.process}}
		sides = append(sides, guide)
	}
	for _, c := range sides {
		c.expect = expectation{status: 401, kept: true}
		c.traffic = l.forgeries
	}
	if err := l.compare(ctx, "forged", l.closed, sides...); err != nil {
		return section{}, err
	}
	s := section{
		title: "Forged events",
		text: fmt.Sprintf("%d well-formed events with wrong signatures are posted over and over. Each body is read to its end, "+
			"and no side ends the connection with its 401. %s", batchSize, expressText(theirs)),
		table: rateTable(sides...),
	}
	s.atLeast("forged events, of respond 401's requests/s", ratios(ours.rates, respond.rates), 0.8)
	s.versusExpress("forged events, times the Express receiver's requests/s", ours, guide, reason)
	return s, nil
}

// answerers starts a Caddy with fixed responses and one with the handler.
func (l *lab) answerers(ctx context.Context, scenario string, fixed map[string]string) (ceiling, edge *caddy, err error) {
	if ceiling, err = l.startCaddy(ctx, caddyConfig{name: scenario + "-respond", sites: fixed}); err != nil {
		return nil, nil, err
	}
	edge, err = l.startCaddy(ctx, caddyConfig{name: scenario + "-edge", sites: map[string]string{"edge": edgeRoute(l.app.addr, "")}})
	if err != nil {
		ceiling.stop()
		return nil, nil, err
	}
	return ceiling, edge, nil
}

func expressText(e *express) string {
	if e == nil {
		return ""
	}
	return "The Express receiver runs on Node " + e.version + ", one process, asked directly."
}

// versusExpress judges a side by the receiver it spares people.
func (s *section) versusExpress(name string, ours, theirs *contender, reason string) {
	if theirs == nil {
		s.leftOut(name, "≥ 3", reason)
		return
	}
	s.atLeast(name, ratios(ours.rates, theirs.rates), 3)
}

// latencyTable returns a table of latencies by quantile.
func latencyTable(sides ...*contender) [][]string {
	rows := [][]string{{"side", "p50, ms", "p99, ms", "p99.9, ms", "greatest", "server CPU a request"}}
	for _, c := range sides {
		rows = append(rows, []string{c.name, c.p50.format("%.2f"), c.p99.format("%.2f"), c.p999.format("%.2f"), millis(c.greatest), fmt.Sprintf("%.0f µs", c.cpu.median())})
	}
	return rows
}
