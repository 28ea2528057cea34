package delivery

import (
	"container/list"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// The slots of an endpoint go round its clients, so that one with many
// deliveries does not hold up the others: a slot that becomes free goes to the
// client with the fewest attempts in flight, and among equals to the one that
// has waited longest. Whoever comes while others wait gets in line.

// lane is what the engine knows of a lane of the store: that it waits for slots,
// has been granted some, or is being asked about in the claim that is under way.
type lane struct {
	key    store.Lane
	tenant *tenant
	// parked: it may have no more now, and the store does not ask for it.
	parked bool
	// place is where it is among the tenant's, while it waits for slots.
	place *list.Element
	// granted is how many slots are kept for it.
	granted int

	// What the claim under way is about: how many it may take, how many it
	// has taken, and whether these are overdue ones only.
	given, taken int
	overdue      bool
	asked        bool
	// again: settle is not to take its slots back.
	again bool
}

// tenant is a client of an endpoint.
type tenant struct {
	client   string
	inFlight int
	granted  int
	known    int           // lanes in endpoint.lanes
	lanes    list.List     // of *lane, those that wait for slots
	place    *list.Element // in endpoint.line, while there are any
}

// load is what the lane's tenant has in flight, or will have.
func (l *lane) load() int { return l.tenant.inFlight + l.tenant.granted + l.given - l.taken }

// lane returns a lane of the endpoint, which may be a new one.
func (p *endpoint) lane(key store.Lane) *lane {
	l := p.lanes[key]
	if l == nil {
		l = &lane{key: key, tenant: p.tenant(key.Client)}
		l.tenant.known++
		put(&p.lanes, key, l)
	}
	return l
}

func (p *endpoint) tenant(client string) *tenant {
	t := p.tenants[client]
	if t == nil {
		t = &tenant{client: client}
		put(&p.tenants, client, t)
	}
	return t
}

// tidy forgets a lane, and its tenant, of which there is nothing to remember.
func (p *endpoint) tidy(l *lane) {
	if l.parked || l.granted > 0 || l.asked {
		return
	}
	remove(&p.lanes, l.key)
	l.tenant.known--
	p.tidyTenant(l.tenant)
}

func (p *endpoint) tidyTenant(t *tenant) {
	if t.inFlight == 0 && t.known == 0 {
		remove(&p.tenants, t.client)
	}
}

// put adds to a map that may not be there yet.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// remove takes from a map, and drops an empty one: of many endpoints few are
// busy.
func remove[K comparable, V any](m *map[K]V, k K) {
	if delete(*m, k); len(*m) == 0 {
		*m = nil
	}
}

// park makes a lane wait. One whose URL is held does not wait for slots.
func (p *endpoint) park(l *lane, now time.Time) {
	l.parked = true
	if u := p.urls[l.key]; l.place != nil || u != nil && u.blocked(now) {
		return
	}
	t := l.tenant
	l.place = t.lanes.PushBack(l)
	if t.place == nil {
		t.place = p.line.PushBack(t)
	}
}

// unpark takes a lane out of the line.
func (p *endpoint) unpark(l *lane) {
	l.parked = false
	if l.place == nil {
		return
	}
	t := l.tenant
	t.lanes.Remove(l.place)
	l.place = nil
	if t.lanes.Len() == 0 {
		p.line.Remove(t.place)
		t.place = nil
	}
}

// othersWait reports whether another tenant is in line, or has its turn.
func (p *endpoint) othersWait(t *tenant) bool {
	if p.granted > t.granted {
		return true
	}
	first := p.line.Front()
	return first != nil && (first.Value != any(t) || first.Next() != nil)
}

// next returns the lane whose turn it is. A probe is not the same tenant's twice
// in a row while another waits.
func (p *endpoint) next(probe bool) *lane {
	var best *tenant
	for e := p.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*tenant)
		if probe && t.client == p.probed && p.line.Len() > 1 {
			continue
		}
		if best == nil || t.inFlight+t.granted < best.inFlight+best.granted {
			best = t
		}
		if best.inFlight+best.granted == 0 {
			break
		}
	}
	if best == nil {
		return nil
	}
	return best.lanes.Front().Value.(*lane)
}
