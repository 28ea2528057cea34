package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	// hostileLimit is the most CPU time that a body which is refused may take,
	// in ms for each MiB of it.
	hostileLimit = 40
	// hostileSize is the size of the bodies that are sent: the default max_body
	// of the edge.
	hostileSize = 8 << 20
	// hostileRounds is how often each is sent in a round: CPU times come in
	// steps of 10 ms.
	hostileRounds = 3
)

// runHostile searches for the JSON that takes the most CPU time, and measures
// what bodies made of it cost a Caddy that refuses them.
func (l *lab) runHostile(ctx context.Context) (section, error) {
	c, err := l.startCaddy(ctx, caddyConfig{name: "hostile", path: "/*", sites: map[string]string{
		"edge": edgeRoute(l.app.addr, ""),
		"api":  predictionsRoute("http://"+l.app.addr+"/v1", l.app.addr),
	}})
	if err != nil {
		return section{}, err
	}
	defer c.stop()
	size, rounds := hostileSize, l.rounds
	if l.quick {
		size = hostileSize / 8
	}
	sec := section{
		title: "Hostile bodies",
		text: fmt.Sprintf("Bodies of %s bytes that are refused: at the edge for their signature, as creates for a webhook_url that is not https. "+
			"For each kind of JSON a search of %s with a fixed seed changes small texts at random and keeps those whose repetition takes the parser longest; "+
			"what it found is sent. The first row is one long string, which shows what receiving and hashing cost. Times are CPU time of the Caddy process for each MiB.",
			count(float64(size)), l.searching()),
		table: [][]string{{"kind", "worst found", "tried", "parser, ms/MiB", "refused by the edge, ms/MiB", "refused create, ms/MiB"}},
	}
	kinds := append([]hostileKind{{name: "a string", seeds: []string{"a"}, alphabet: "a", open: `["`, end: `"]`}}, hostileKinds...)
	var worstEdge, worstCreate costOfKind
	for i, k := range kinds {
		var found specimen
		if i == 0 {
			found, err = k.measured(k.seeds[0], size)
		} else {
			found, err = k.search(ctx, l.searching(), size)
		}
		if err != nil {
			return section{}, fmt.Errorf("searching %s: %w", k.name, err)
		}
		text := k.text(found.unit, size)
		var edge, create spread
		for range rounds {
			cost, err := l.refused(ctx, c, c.sites["edge"], hookPath, text, http.StatusUnauthorized)
			if err != nil {
				return section{}, err
			}
			edge = append(edge, cost)
			body := append([]byte(`{"webhook_url":"http://192.0.2.1/","input":`), text...)
			if cost, err = l.refused(ctx, c, c.sites["api"], createPath, append(body, '}'), http.StatusUnprocessableEntity); err != nil {
				return section{}, err
			}
			create = append(create, cost)
		}
		sec.table = append(sec.table, []string{
			k.name, "`" + shown(found.unit) + "`", count(float64(found.tried)), fmt.Sprintf("%.1f", found.cost), edge.format("%.1f"), create.format("%.1f"),
		})
		worstEdge, worstCreate = costlier(worstEdge, k.name, edge), costlier(worstCreate, k.name, create)
	}
	sec.atMost("CPU time of bodies refused by the edge, worst kind ("+worstEdge.kind+")", worstEdge.cost, hostileLimit, "ms/MiB")
	sec.atMost("CPU time of refused creates, worst kind ("+worstCreate.kind+")", worstCreate.cost, hostileLimit, "ms/MiB")
	return sec, nil
}

// costOfKind is what bodies of a kind cost.
type costOfKind struct {
	kind string
	cost spread
}

// costlier returns the one of the two that costs more.
func costlier(a costOfKind, kind string, cost spread) costOfKind {
	if len(a.cost) > 0 && a.cost.median() >= cost.median() {
		return a
	}
	return costOfKind{kind, cost}
}

// searching returns the time of the search for each kind.
func (l *lab) searching() time.Duration {
	if l.quick {
		return 200 * time.Millisecond
	}
	return 5 * time.Second
}

// refused posts the body a few times, checks that it is refused with the status,
// and returns the CPU time that this took Caddy, in ms for each MiB.
func (l *lab) refused(ctx context.Context, c *caddy, addr, path string, body []byte, status int) (float64, error) {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer bench\r\nContent-Length: %d\r\n"+
		"X-Replicate-Signature: %s\r\n\r\n", path, len(body), strings.Repeat("0", 64))
	request := append([]byte(head), body...)
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	for range hostileRounds {
		cl := newClient(addr, time.Now().Add(time.Minute))
		a, err := cl.do(request)
		cl.close()
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil:
			return 0, err
		case a.status != status:
			return 0, fmt.Errorf("the response to a hostile body is %d, want %d", a.status, status)
		}
	}
	after, err := c.cpu()
	return float64(after-before) / float64(time.Millisecond) / hostileRounds / (float64(len(body)) / (1 << 20)), err
}

// shown returns a unit as the table shows it.
func shown(unit string) string {
	const most = 48
	s := strings.NewReplacer("|", "¦", "`", "'", "\n", `␊`, "\r", `␍`, "\t", `␉`).Replace(unit)
	if r := []rune(s); len(r) > most {
		return string(slices.Concat(r[:most-1], []rune("…")))
	}
	return s
}
