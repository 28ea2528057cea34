package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// storeRounds is how many rounds the stores are compared in: there are
	// many sides.
	storeRounds = 3
	// manyNodes share one database.
	manyNodes = 3
	// idleRate is how many creates a second hardly ever meet in a
	// transaction.
	idleRate = 20
	// heldReceivers is how many deliveries a node has in hand when it dies.
	heldReceivers = 50
)

// runStores compares the stores, and one node with several.
func (l *lab) runStores(ctx context.Context) (section, error) {
	sec := section{title: "PostgreSQL beside SQLite"}
	const lost = "deliveries in hand of a dead node: held again by others after"
	db, reason := l.startPostgres(ctx)
	if db == nil {
		sec.leftOut(lost, "≤ 30 s", reason)
		return sec, nil
	}
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	hang, err := l.startReceiver(ctx, heldReceivers)
	if err != nil {
		return section{}, err
	}
	sites := map[string]string{"edge": edgeRoute(l.app.addr, ""), "api": predictionsRoute(s.api.url(), s.api.addr), "plain": proxyRoute(l.app.addr, "")}
	cfg := caddyConfig{name: "stores-sqlite", path: "/*", sites: sites, options: deliveryOptions(s.receiver, hang) + endpointOption(createConcurrency)}
	embedded, err := l.startCaddy(ctx, cfg)
	if err != nil {
		return section{}, err
	}
	defer embedded.stop()
	var nodes []*caddy
	cfg.dsn = db.dsn
	for i := range manyNodes {
		cfg.name = fmt.Sprintf("stores-postgres-%d", i+1)
		n, err := l.startCaddy(ctx, cfg)
		if err != nil {
			return section{}, err
		}
		defer n.stop()
		nodes = append(nodes, n)
	}
	defer hang.stop()
	one, many := "PostgreSQL, 1 node of 3 asked", fmt.Sprintf("PostgreSQL, %d nodes", manyNodes)
	edge := []*contender{
		caddyContender("unique events, reverse_proxy", "plain", embedded),
		caddyContender("unique events, SQLite", "edge", embedded),
		caddyContender("unique events, "+one, "edge", nodes[0]),
		caddyContender("unique events, "+many, "edge", nodes...),
	}
	for _, c := range edge {
		c.traffic = l.unique
	}
	rounds := min(l.rounds, storeRounds)
	if err := l.compareRounds(ctx, rounds, "stores", l.closed, edge...); err != nil {
		return section{}, err
	}
	creates := []*contender{
		l.hookedContender("creates, SQLite", s, create{}, embedded),
		// Any node may deliver what one has captured.
		l.hookedContender("creates, "+one, s, create{}, nodes...),
		l.hookedContender("creates, "+many, s, create{}, nodes...),
	}
	creates[1].addrs = creates[1].addrs[:1]
	if err := l.compareRounds(ctx, rounds, "stores", l.closed, creates...); err != nil {
		return section{}, err
	}
	sec.text = fmt.Sprintf("Unique events at the edge, and creates with both events delivered, as above. The database runs on the same machine, with fsync, and its CPU is in no column. "+
		"%d nodes share it; connections are spread over the nodes that are asked.", manyNodes)
	sec.table = append(rateTable(edge...), rateTable(creates...)[1:]...)
	busy, err := l.databaseWork(ctx, db, creates[2], l.closed)
	if err != nil {
		return section{}, err
	}
	idle, err := l.databaseWork(ctx, db, creates[2], l.openAt(idleRate))
	if err != nil {
		return section{}, err
	}
	sec.notes = append(sec.notes, "For each delivered event, its share of the create included, the database did "+busy.text(db)+" under load, "+idle.text(db)+fmt.Sprintf(" at %d creates a second.", idleRate))
	sec.atMost("PostgreSQL, commits for each delivered event, idle", spread{idle.commits}, 2, "")
	sec.atMost("PostgreSQL, commits for each delivered event, under load", spread{busy.commits}, 1, "")
	resumed, err := l.killNode(ctx, nodes, hang)
	if err != nil {
		return section{}, fmt.Errorf("killing a node: %w", err)
	}
	sec.atMost(lost, spread{resumed.Seconds()}, 30, "s")
	return sec, nil
}

// perEvent is a database's work for one delivered event.
type perEvent struct{ commits, statements float64 }

func (p perEvent) text(db *database) string {
	text := fmt.Sprintf("%.2f commits", p.commits)
	if db.statements {
		text += fmt.Sprintf(" and %.1f statements", p.statements)
	}
	return text
}

func (l *lab) databaseWork(ctx context.Context, db *database, c *contender, measure measureFunc) (perEvent, error) {
	before, err := db.work(ctx)
	if err != nil {
		return perEvent{}, err
	}
	r, err := l.measure(ctx, measure, c)
	if err != nil {
		return perEvent{}, err
	}
	after, err := db.work(ctx)
	did, events := after.minus(before), float64(2*r.requests)
	return perEvent{float64(did.commits) / events, float64(did.statements) / events}, err
}

// killNode kills the first node while it holds deliveries, and gives the time
// until the others hold them all.
func (l *lab) killNode(ctx context.Context, nodes []*caddy, hang *receiver) (time.Duration, error) {
	// The others are stopped meanwhile, so that it takes them all.
	for _, n := range nodes[1:] {
		n.stop()
	}
	batch := make([][]byte, heldReceivers)
	for i := range batch {
		batch[i] = newCreate(bodySize, create{webhook: "http://" + hangingAddr(i, hang.addr) + hookPath}).write(l.signer.next.Add(1) - 1)
	}
	r, err := load{addrs: []string{nodes[0].sites["api"]}, feeds: once(batch, l.connections), expect: expectation{status: 201}}.closedLoop(ctx, grace)
	if err == nil && r.requests != len(batch) {
		err = errors.New("creates were not answered")
	}
	if err != nil {
		return 0, err
	}
	held := func() error {
		c, err := hang.counts(ctx)
		if err == nil && c.taken < heldReceivers {
			err = fmt.Errorf("%d of %d deliveries are held", c.taken, heldReceivers)
		}
		return err
	}
	if err := nodes[0].poll(ctx, held); err != nil {
		return 0, err
	}
	for _, n := range nodes[1:] {
		if err := n.start(ctx); err != nil {
			return 0, err
		}
	}
	if err := nodes[0].cmd.Process.Kill(); err != nil {
		return 0, err
	}
	<-nodes[0].ended
	killed := time.Now()
	// What the dead one held is let go first.
	if err := nodes[1].poll(ctx, func() error {
		c, err := hang.counts(ctx)
		if err == nil && c.taken > 0 && time.Since(killed) < time.Second {
			err = errors.New("the dead node's connections are still open")
		}
		return err
	}); err != nil {
		return 0, err
	}
	err = nodes[1].poll(ctx, held)
	return time.Since(killed), err
}
