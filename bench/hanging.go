package main

import (
	"context"
	"errors"
	"fmt"
)

// runHanging measures how soon events reach a receiver that responds while many
// others hang.
func (l *lab) runHanging(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	hang, err := l.startReceiver(ctx, l.hanging)
	if err != nil {
		return section{}, err
	}
	alone, err := l.startDelivering(ctx, s, caddyConfig{name: "hanging-alone"})
	if err != nil {
		return section{}, err
	}
	defer alone.stop()
	among, err := l.startDelivering(ctx, s, caddyConfig{name: "hanging-among"}, hang)
	if err != nil {
		return section{}, err
	}
	defer among.stop()
	// Before its Caddy, which waits for attempts that are under way.
	defer hang.stop()
	quiet := l.hookedContender("all respond", s, create{}, alone)
	busy := l.hookedContender(fmt.Sprintf("beside %s that hang", count(float64(l.hanging))), s, create{}, among)
	responding := busy.traffic
	busy.traffic = func(ctx context.Context) (traffic, error) {
		if err := l.hang(ctx, busy, hang); err != nil {
			return traffic{}, err
		}
		t, err := responding(ctx)
		check := t.check
		t.check = func(ctx context.Context, r *result) error {
			return errors.Join(check(ctx, r), l.allHang(ctx, hang))
		}
		return t, err
	}
	if err := l.compare(ctx, "hanging", l.openAt(createRate), quiet, busy); err != nil {
		return section{}, err
	}
	var rows []*contender
	for _, c := range []*contender{quiet, busy} {
		started, terminal := *c, *c
		started.name, started.latencies = "prediction.started, "+c.name, c.started
		terminal.name, terminal.latencies = "prediction.completed, "+c.name, c.terminal
		rows = append(rows, &started, &terminal)
	}
	sec := section{
		title: "Beside receivers that hang",
		text: fmt.Sprintf("%s receivers, each an endpoint of its own, take a webhook and never respond. All hold one from before the measurement until after it. "+
			"Beside them %d creates a second have a webhook to a receiver that responds. The times are from the create's response to the receipt.", count(float64(l.hanging)), createRate),
		table: latencyTable(rows...),
	}
	for _, c := range rows[2:] {
		sec.atMost(c.name+", p99", c.p99, 1000, "ms")
	}
	return sec, nil
}

// hang creates predictions whose webhooks go to the receivers that hang, and
// waits until each of these holds one.
func (l *lab) hang(ctx context.Context, c *contender, hang *receiver) error {
	batch := make([][]byte, l.hanging)
	for i := range batch {
		n := l.signer.next.Add(1) - 1
		batch[i] = newCreate(bodySize, create{webhook: "http://" + hangingAddr(i, hang.addr) + hookPath}).write(n)
	}
	r, err := load{addrs: c.addrs, feeds: once(batch, l.connections), expect: c.expect}.closedLoop(ctx, grace)
	if err == nil && r.requests != l.hanging {
		err = fmt.Errorf("%d of %d were answered in time", r.requests, l.hanging)
	}
	if err != nil {
		return fmt.Errorf("creating predictions for receivers that hang: %w", err)
	}
	return c.nodes[0].poll(ctx, func() error { return l.allHang(ctx, hang) })
}

// allHang checks that all receivers that hang hold a webhook, but for a few
// which may be between two attempts.
func (l *lab) allHang(ctx context.Context, hang *receiver) error {
	c, err := hang.counts(ctx)
	if err == nil && c.taken < l.hanging*95/100 {
		err = fmt.Errorf("%d of %d receivers hang", c.taken, l.hanging)
	}
	return err
}
