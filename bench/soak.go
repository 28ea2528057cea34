package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	adminclient "github.com/caddy-replicate/replicate-webhook/admin/client"
)

const (
	// soakName is the scenario's. It is not part of a whole run.
	soakName = "soak"

	// soakCreates and soakEvents are the creates and the edge's events a second.
	soakCreates, soakEvents = 8, 40
	// soakTries is how often a delivery is tried.
	soakTries = 3
	// soakFailures is how many failures in a row open a breaker.
	soakFailures = 10
	// soakSlack is what a busy machine may add to what the configuration
	// allows a delivery.
	soakSlack = 15 * time.Second
)

// soak is a Caddy under mixed traffic for minutes.
type soak struct {
	l       *lab
	c       *caddy
	admin   *adminclient.Client
	targets []*soakTarget

	// What a delivery is allowed.
	hold, timeout, cooldown time.Duration

	began    time.Time
	samples  []soakSample
	overdue  map[string]bool // deliveries without a reason to wait, at the last sample
	mostLate time.Duration
}

// soakTarget is a receiver, whose predictions are numbered from lo.
type soakTarget struct {
	name, url, endpoint string
	lo                  uint64
	creates             atomic.Uint64
}

func (t *soakTarget) feed() feed {
	request := newCreate(bodySize, create{webhook: t.url})
	return func() ([]byte, bool) { return request.write(t.lo + t.creates.Add(1) - 1), true }
}

// lifetime returns the longest that a delivery may take to its end: each try
// waits behind an open breaker, then for its response, and tries are 1 s and 2
// s apart. The terminal event's first try comes after the first one of
// prediction.started. Before the breaker of a receiver that hangs opens,
// attempts go one at a time.
func (s *soak) lifetime() time.Duration {
	return soakFailures*s.timeout + (1+soakTries)*(s.hold+s.cooldown+s.timeout) + 3*time.Second + soakSlack
}

// runSoak runs everything at once for as long as -soak says.
func (l *lab) runSoak(ctx context.Context) (section, error) {
	s := &soak{l: l, hold: min(time.Minute, max(3*time.Second, l.soak/10)), overdue: make(map[string]bool)}
	s.timeout = min(5*time.Second, s.hold)
	s.cooldown = s.hold / 6
	st, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer st.stop()
	bad, err := l.startIll(ctx)
	if err != nil {
		return section{}, err
	}
	if err := s.start(ctx, st, bad); err != nil {
		return section{}, err
	}
	defer s.c.stop()
	defer bad.stop() // before its Caddy, which waits for attempts that are under way
	defer s.admin.Close()
	if err := s.run(ctx); err != nil {
		return section{}, err
	}
	if err := s.drain(ctx); err != nil {
		return section{}, err
	}
	good := s.targets[0]
	if _, err := st.receiver.lifecycles(ctx, 0, good.lo, good.lo+good.creates.Load()); err != nil {
		return section{}, fmt.Errorf("the good receiver: %w", err)
	}
	if _, err := bad.counts(ctx); err != nil {
		return section{}, err
	}
	status, err := s.admin.Status(ctx)
	if err != nil {
		return section{}, err
	}
	sec := s.section()
	sec.notes = append(sec.notes, fmt.Sprintf("In the end %s deliveries were held as delivered, %s as failed and %s as superseded or canceled, none as pending.",
		count(float64(status.Deliveries.Delivered)), count(float64(status.Deliveries.Failed)), count(float64(status.Deliveries.Superseded+status.Deliveries.Canceled))))
	return sec, nil
}

// start starts Caddy with short limits, so that the longest life of a delivery
// and of what is remembered passes several times.
func (s *soak) start(ctx context.Context, st *stage, bad *receiver) (err error) {
	_, port, _ := net.SplitHostPort(bad.addr)
	add := func(name, base string) {
		s.targets = append(s.targets, &soakTarget{name: name, url: base + hookPath, endpoint: base, lo: uint64(len(s.targets)+1) << 48})
	}
	add("good", "http://"+st.receiver.addr)
	for _, kind := range []string{illSlow, illFlaky, illHanging, illDead, illGone} {
		add(kind, "http://"+net.JoinHostPort(illAddrs[kind], port))
	}
	add("gone (no such name)", "http://receiver-that-is-gone.example.com:"+port)
	remembered := min(time.Minute, s.l.soak/4)
	s.c, err = s.l.startCaddy(ctx, caddyConfig{
		name: "soak", path: "/*",
		options: deliveryOptions(st.receiver, bad) + fmt.Sprintf("\t\ttimeout %s\n\t\tretry {\n\t\t\tmax_attempts %d\n\t\t\tinitial_delay 1s\n\t\t}\n"+
			"\t\tendpoint {\n\t\t\tbreaker %d %s %s\n\t\t}\n\t\tretention {\n\t\t\tdeliveries %s\n\t\t\tpredictions %s\n\t\t}\n",
			s.timeout, soakTries-1, soakFailures, s.cooldown, s.hold, 2*s.lifetime(), 3*s.lifetime()),
		sites: map[string]string{
			"edge": fmt.Sprintf("replicate_webhook {\n\t\t\tsecret {env.%s}\n\t\t\ttolerance %s\n\t\t\tdedup %s\n\t\t}\n\t\t", secretEnv, remembered/2, remembered) +
				proxyRoute(s.l.app.addr, ""),
			"api": predictionsRoute(st.api.url(), st.api.addr),
		},
	})
	if err != nil {
		return err
	}
	s.admin, err = adminclient.New(s.c.admin)
	return err
}

// run sends the traffic, and samples.
func (s *soak) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The edge's events have numbers of their own.
	edge := *s.l
	edge.signer = &signer{secret: s.l.signer.secret, next: new(atomic.Uint64)}
	events, err := edge.unique(ctx)
	if err != nil {
		return err
	}
	feeds := make([]feed, len(s.targets))
	for i, t := range s.targets {
		feeds[i] = t.feed()
	}
	s.began = time.Now()
	var wg sync.WaitGroup
	failed := newFailure(func() { cancel(errors.New("the soak has failed")) })
	part := func(name string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failed.set(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("creates", func() error {
		_, err := load{addrs: []string{s.c.sites["api"]}, feeds: feeds, expect: expectation{status: 201, mark: `"webhook_status":"pending"`}}.openLoop(ctx, soakCreates, s.l.soak)
		return err
	})
	part("events", func() error {
		r, err := load{addrs: []string{s.c.sites["edge"]}, feeds: events.feeds, expect: expectation{status: 200}}.openLoop(ctx, soakEvents, s.l.soak)
		if err == nil {
			err = events.check(ctx, &r)
		}
		return err
	})
	part("sampling", func() error {
		every := min(15*time.Second, s.l.soak/20)
		for time.Since(s.began) < s.l.soak {
			pause(ctx, every)
			if ctx.Err() != nil {
				return nil // whatever failed has said so
			}
			if err := s.sample(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	wg.Wait()
	return failed.get()
}

// drain waits until every delivery has ended, which may take one lifetime.
func (s *soak) drain(ctx context.Context) error {
	end := time.Now().Add(s.lifetime())
	for {
		if err := s.sample(ctx); err != nil {
			return err
		}
		pending := s.samples[len(s.samples)-1].pending()
		if pending == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d deliveries are still pending %s after the last create", pending, s.lifetime())
		}
		pause(ctx, time.Second)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// databaseSize returns the size of the store's files.
func (c *caddy) databaseSize() (size int64, err error) {
	files, err := filepath.Glob(filepath.Join(c.dir, "webhook.db*"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}
