package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// soakSample is how things were at a time.
type soakSample struct {
	at                  time.Duration // since the begin
	rss, database       int64
	goroutines, fds     int
	waiting             []int // pending deliveries by target
	allPending, tracked int
}

func (s *soakSample) pending() int { return s.allPending }

// sample takes a sample. It fails where a delivery is older than any may
// become, or waits without a reason.
func (s *soak) sample(ctx context.Context) (err error) {
	now := soakSample{at: time.Since(s.began)}
	if now.rss, err = s.c.rss(); err != nil {
		return err
	}
	if now.database, err = s.c.databaseSize(); err != nil {
		return err
	}
	goroutines, err := s.c.metric(ctx, "go_goroutines")
	if err != nil {
		return err
	}
	now.goroutines = int(goroutines)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.c.cmd.Process.Pid))
	if err != nil {
		return err
	}
	now.fds = len(fds)
	endpoints, err := s.admin.Endpoints(ctx)
	if err != nil {
		return err
	}
	late := make(map[string]bool)
	for _, t := range s.targets {
		pending, err := s.pendingOf(ctx, t.endpoint)
		if err != nil {
			return err
		}
		now.waiting = append(now.waiting, len(pending))
		if err := s.judge(t, pending, endpoints, late); err != nil {
			return err
		}
	}
	s.overdue = late
	status, err := s.admin.Status(ctx)
	if err != nil {
		return err
	}
	now.allPending, now.tracked = status.Deliveries.Pending, status.TrackedPredictions
	s.samples = append(s.samples, now)
	return nil
}

// pendingOf lists the pending deliveries of an endpoint.
func (s *soak) pendingOf(ctx context.Context, endpoint string) (all []operator.Delivery, err error) {
	q := operator.DeliveryQuery{State: "pending", Endpoint: endpoint, Limit: 500}
	for {
		page, err := s.admin.Deliveries(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Results...)
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}

// judge looks for deliveries that neither end nor have a reason to wait. Reasons
// are: it is not due, its prediction's started event goes first, the endpoint's
// breaker is open, or attempts there are under way. One that has none at two
// samples in a row is stuck.
func (s *soak) judge(t *soakTarget, pending []operator.Delivery, endpoints operator.Endpoints, late map[string]bool) error {
	busy := slices.ContainsFunc(endpoints.Results, func(e delivery.EndpointStatus) bool {
		return e.Endpoint == t.endpoint && (e.State != delivery.Closed || e.InFlight > 0)
	})
	started := make(map[string]bool)
	for _, d := range pending {
		if d.Event == "prediction.started" {
			started[d.Prediction] = true
		}
	}
	for _, d := range pending {
		if age := time.Since(d.Created); age > s.lifetime() {
			return fmt.Errorf("delivery %s to the %s receiver neither ends nor fails: it is pending for %s after %d attempts, and may be for %s", d.ID, t.name, age.Round(time.Second), d.Attempts, s.lifetime())
		} else if age > s.mostLate {
			s.mostLate = age
		}
		if busy || time.Since(d.Due) < soakSlack || started[d.Prediction] && d.Event != "prediction.started" {
			continue
		}
		if s.overdue[d.ID] {
			return fmt.Errorf("delivery %s to the %s receiver has no reason to wait: it is due since %s, and the endpoint is neither open nor busy", d.ID, t.name, time.Since(d.Due).Round(time.Second))
		}
		late[d.ID] = true
	}
	return nil
}

// section returns the table of the samples.
func (s *soak) section() section {
	traffic := slices.DeleteFunc(slices.Clone(s.samples), func(x soakSample) bool { return x.at > s.l.soak })
	warm := min(5*time.Minute, s.l.soak/4)
	after := slices.IndexFunc(traffic, func(x soakSample) bool { return x.at >= warm })
	steady := traffic[max(0, min(after, len(traffic)-1)):]
	window := max(1, len(steady)/4)
	first, last := steady[:window], steady[len(steady)-window:]

	names := make([]string, len(s.targets))
	creates := 0
	for i, t := range s.targets {
		names[i] = t.name
		creates += int(t.creates.Load())
	}
	sec := section{
		title: "Soak",
		text: fmt.Sprintf("For %s, %d creates a second, spread over %d receivers (%s), and beside them %d unique events a second at the edge. "+
			"A delivery has %d tries of at most %s; a breaker opens after 10 failures, for %s, and holds a delivery for at most %s a try. So none may take longer than %s. "+
			"The bench fails if one does, if one waits without a reason, or if the good receiver did not get both events of each prediction exactly once, in order. "+
			"%s creates were made; the oldest pending delivery that was seen was %s old.",
			s.l.soak, soakCreates, len(s.targets), strings.Join(names, ", "), soakEvents, soakTries, s.timeout, s.cooldown, s.hold, s.lifetime(),
			count(float64(creates)), s.mostLate.Round(time.Second)),
		table: [][]string{append([]string{"after", "RSS", "goroutines", "descriptors", "database", "tracked", "pending"}, names...)},
	}
	for _, at := range []time.Duration{0, warm, s.l.soak / 2, s.l.soak * 3 / 4, s.l.soak} {
		if i := slices.IndexFunc(traffic, func(x soakSample) bool { return x.at >= at }); i >= 0 {
			sec.table = append(sec.table, traffic[i].row(""))
		}
	}
	sec.table = append(sec.table, traffic[len(traffic)-1].row("the last create"), s.samples[len(s.samples)-1].row("the last delivery"))

	growth := medianOf(last, func(x *soakSample) float64 { return float64(x.rss) }) / medianOf(first, func(x *soakSample) float64 { return float64(x.rss) })
	sec.atMost(fmt.Sprintf("memory at the end, of that after the first %s", warm), spread{growth}, 1.1, "×")
	for i, t := range s.targets {
		if t.name != illDead && t.name != illHanging {
			continue
		}
		most := 0
		for _, x := range traffic {
			most = max(most, x.waiting[i])
		}
		// Both events of each create, for as long as a delivery may take.
		bound := 2 * float64(t.creates.Load()) / s.l.soak.Seconds() * s.lifetime().Seconds()
		sec.atMost("pending deliveries to the "+t.name+" receiver, at most", spread{float64(most)}, float64(int(bound)), "deliveries")
	}
	return sec
}

func medianOf(samples []soakSample, value func(*soakSample) float64) float64 {
	var values []float64
	for i := range samples {
		values = append(values, value(&samples[i]))
	}
	return median(values)
}

func (x *soakSample) row(name string) []string {
	if name == "" {
		name = x.at.Round(time.Second).String()
	}
	row := []string{name, mebibytes(x.rss), fmt.Sprint(x.goroutines), fmt.Sprint(x.fds), fmt.Sprintf("%.1f MiB", float64(x.database)/(1<<20)),
		fmt.Sprint(x.tracked), fmt.Sprint(x.allPending)}
	for _, n := range x.waiting {
		row = append(row, fmt.Sprint(n))
	}
	return row
}
