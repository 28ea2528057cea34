package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// outageName is the scenario's. It is not part of a whole run.
	outageName = "outage"
	// outageRate is the events a second that come while the app is down.
	outageRate = 5
)

// senderWaits are those of a sender that repeats a terminal webhook for about a minute,
// as Replicate documents, and then gives up.
var senderWaits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}

// outageSide is an edge with an app of its own, which is down.
type outageSide struct {
	name string
	c    *caddy
	addr string // the app's
	lo   uint64
	sent uint64
	wg   sync.WaitGroup // of the events that are on their way

	mu      sync.Mutex
	givenUp int
}

// runOutage sends events to an app that is down for minutes, with an inbox and without,
// and counts what the app has of them in the end.
func (l *lab) runOutage(ctx context.Context) (section, error) {
	var sides []*outageSide
	for _, name := range []string{"replicate_webhook + reverse_proxy", "replicate_webhook with an inbox"} {
		addr, err := nobody()
		if err != nil {
			return section{}, err
		}
		s := &outageSide{name: name, addr: addr}
		if len(sides) == 0 {
			s.c, err = l.startCaddy(ctx, caddyConfig{name: "outage-edge", sites: map[string]string{"edge": edgeRoute(addr, "")}})
		} else {
			s.c, err = l.startInbox(ctx, "outage-inbox", addr, "")
		}
		if err != nil {
			return section{}, err
		}
		defer s.c.stop()
		sides = append(sides, s)
	}
	n := max(1, int(l.outage.Seconds()*outageRate))
	for _, s := range sides {
		s.lo = l.signer.next.Add(uint64(n)) - uint64(n)
	}
	t := l.signer.template()
	tick := time.NewTicker(time.Second / outageRate)
	defer tick.Stop()
	for range n {
		for _, s := range sides {
			request := t.write(s.lo + s.sent)
			s.sent++
			_, body, _ := bytes.Cut(request, []byte("\r\n\r\n"))
			s.send(ctx, bytes.Clone(body), string(t.sig))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return section{}, ctx.Err()
		}
	}
	sec := section{
		title: "An app that is down",
		text: fmt.Sprintf("%d events a second are sent for %s to an app that is down, each repeated for about a minute, as Replicate does with terminal webhooks. "+
			"Then the app starts, and the senders that have not given up go on.", outageRate, l.outage),
		table: [][]string{{"side", "events", "given up by the sender", "reached the app", "lost"}},
	}
	for _, s := range sides {
		a, err := startAppAt(ctx, s.addr)
		if err != nil {
			return section{}, err
		}
		defer a.stop()
		s.wg.Wait()
		got, err := a.settled(ctx, s.sent-uint64(s.givenUp))
		if err != nil {
			return section{}, err
		}
		lost := s.sent - got.count
		sec.table = append(sec.table, []string{s.name, count(float64(s.sent)), fmt.Sprint(s.givenUp), count(float64(got.count)), count(float64(lost))})
		if s == sides[1] {
			if got != expected(s.lo, s.lo+s.sent) && lost == 0 {
				return section{}, fmt.Errorf("the app behind the inbox was not given each event once")
			}
			sec.atMost("events lost with an inbox", spread{float64(lost)}, 0, "events")
		}
	}
	return sec, nil
}

// send sends an event, and again after each wait until it is accepted.
func (s *outageSide) send(ctx context.Context, body []byte, signature string) {
	s.wg.Go(func() {
		for try := 0; ; try++ {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.c.sites["edge"]+hookPath, bytes.NewReader(body))
			if err != nil {
				return
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Replicate-Signature", signature)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode/100 == 2 {
					return
				}
			}
			if try == len(senderWaits) || ctx.Err() != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.givenUp++
				return
			}
			select {
			case <-time.After(senderWaits[try]):
			case <-ctx.Done():
			}
		}
	})
}

// settled waits until the app has been given so many events.
func (a *app) settled(ctx context.Context, n uint64) (tally, error) {
	for deadline := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		got, err := a.read(ctx)
		if err != nil || got.count >= n || time.Now().After(deadline) {
			return got, err
		}
	}
}
