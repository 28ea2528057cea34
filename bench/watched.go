package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	dashboardPath = "/_webhooks"
	// scrapeEvery is how often the metrics are scraped. Prometheus does so
	// every 15 s unless told otherwise.
	scrapeEvery = 5 * time.Second
)

// runWatched measures what it costs to be looked at.
func (l *lab) runWatched(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	var nodes []*caddy
	for _, name := range []string{"alone", "watched"} {
		c, err := l.startCaddy(ctx, caddyConfig{
			name: "watched-" + name, path: "/*", options: deliveryOptions(s.receiver) + endpointOption(createConcurrency),
			sites: map[string]string{
				"edge": edgeRoute(l.app.addr, ""), "api": predictionsRoute(s.api.url(), s.api.addr),
				"dashboard": "replicate_dashboard " + dashboardPath + "/* {\n\t\t\tpublic\n\t\t}",
			},
		})
		if err != nil {
			return section{}, err
		}
		defer c.stop()
		nodes = append(nodes, c)
	}
	var sides []*contender
	for i, name := range []string{"alone", "watched"} {
		edge := caddyContender("unique events, "+name, "edge", nodes[i])
		edge.traffic = l.unique
		create := l.hookedContender("creates, "+name, s, create{}, nodes[i])
		if i == 1 {
			edge.traffic, create.traffic = watched(edge), watched(create)
		}
		sides = append(sides, edge, create)
	}
	if err := l.compare(ctx, "watched", l.closed, sides...); err != nil {
		return section{}, err
	}
	edge, create := []*contender{sides[0], sides[2]}, []*contender{sides[1], sides[3]}
	sec := section{
		title: "With the dashboard open",
		text: fmt.Sprintf("Unique events at the edge, and creates with both events delivered, as above: left alone, and while somebody has the dashboard's overview open, "+
			"which fetches itself again when it is told of a change, and the metrics are scraped every %s.", scrapeEvery),
		table: append(rateTable(edge...), rateTable(create...)[1:]...),
	}
	sec.atLeast("unique events with dashboard open and scraping, of the requests/s without", ratios(edge[1].rates, edge[0].rates), 0.97)
	sec.atLeast("creates with dashboard open and scraping, of the creates/s without", ratios(create[1].rates, create[0].rates), 0.97)
	return sec, nil
}

// watched returns a side's traffic while its Caddy is watched.
func watched(c *contender) func(context.Context) (traffic, error) {
	plain := c.traffic
	return func(ctx context.Context) (traffic, error) {
		t, err := plain(ctx)
		if err != nil {
			return t, err
		}
		w, check := watch(ctx, c.nodes[0]), t.check
		t.check = func(ctx context.Context, r *result) error { return errors.Join(check(ctx, r), w.stop()) }
		return t, nil
	}
}

// watcher is a browser with the dashboard open, and a Prometheus.
type watcher struct {
	end     context.CancelFunc
	working sync.WaitGroup
	failed  *failure
	pages   int
}

func watch(ctx context.Context, c *caddy) *watcher {
	ctx, end := context.WithCancel(ctx)
	w := &watcher{end: end, failed: newFailure(func() {})}
	base := "http://" + c.sites["dashboard"] + dashboardPath
	w.working.Go(func() {
		if err := w.look(ctx, base); err != nil && ctx.Err() == nil {
			w.failed.set(fmt.Errorf("looking at the dashboard: %w", err))
		}
	})
	w.working.Go(func() {
		tick := time.NewTicker(scrapeEvery)
		defer tick.Stop()
		for {
			if _, err := get(ctx, "http://"+c.admin+"/metrics"); err != nil && ctx.Err() == nil {
				w.failed.set(fmt.Errorf("scraping: %w", err))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// look holds the stream of events that the page opens, and fetches the page as
// it does.
func (w *watcher) look(ctx context.Context, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/live", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the response to the stream is %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "event: ") {
			continue
		}
		page, err := get(ctx, base+"/")
		if err != nil {
			return err
		}
		if !strings.Contains(string(page), "<main") {
			return errors.New("the page has no main part")
		}
		w.pages++
	}
	return errors.Join(lines.Err(), io.ErrUnexpectedEOF)
}

// stop closes the page, and fails if it was not live.
func (w *watcher) stop() error {
	w.end()
	w.working.Wait()
	if err := w.failed.get(); err != nil {
		return err
	}
	if w.pages == 0 {
		return errors.New("the dashboard was not looked at")
	}
	return nil
}
