package delivery

import (
	"container/list"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// The slots of an endpoint go round its clients, so that one with many
// deliveries does not delay the others: a slot that becomes free goes to the
// client with the fewest attempts in flight, and among equals to the one that
// has waited longest. A client that comes while others wait gets in line.

// lane is what the engine knows of a lane of the store while it waits for slots,
// has slots reserved, or is being asked for in the claim under way.
type lane struct {
	key    store.Lane
	tenant *tenant
	// parked reports that it may have no more now, and the store does not
	// ask for it.
	parked bool
	// place is its place among the tenant's, while it waits for slots.
	place *list.Element
	// reserved is the number of slots reserved for it.
	reserved int

	// asked reports that the claim under way has asked for it, offered is
	// how many it may take, taken how many it has taken, and expired
	// whether these are only deliveries that have waited for too long.
	asked          bool
	offered, taken int
	expired        bool
	// starved reports that no worker was free for it.
	starved bool
	// again reports that endClaim must leave its reservation alone.
	again bool
}

// tenant is a client of an endpoint.
type tenant struct {
	client   string
	inFlight int
	reserved int
	known    int           // lanes in endpoint.lanes
	lanes    list.List     // of *lane, those that wait for slots
	place    *list.Element // in endpoint.line, while there are any
}

// load returns what the tenant has in flight or will have soon.
func (t *tenant) load() int { return t.inFlight + t.reserved }

// load returns what the lane's tenant has in flight or will have soon, with what
// the claim under way offers to the lane.
func (l *lane) load() int { return l.tenant.load() + l.offered - l.taken }

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

// tenant returns a client of the endpoint, which may be a new one.
func (p *endpoint) tenant(client string) *tenant {
	t := p.tenants[client]
	if t == nil {
		t = &tenant{client: client}
		put(&p.tenants, client, t)
	}
	return t
}

// tidy forgets a lane, and its tenant, if there is nothing to remember.
func (p *endpoint) tidy(l *lane) {
	if l.parked || l.reserved > 0 || l.asked {
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

// put adds to a map, which it makes if need be.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// remove removes from a map, and drops an empty one: of many endpoints few are
// busy.
func remove[K comparable, V any](m *map[K]V, k K) {
	if delete(*m, k); len(*m) == 0 {
		*m = nil
	}
}

// park makes a lane wait. It does not wait for slots while the breaker of its
// URL blocks it.
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

// unreserve ends the reservations of a lane.
func (p *endpoint) unreserve(l *lane) {
	p.reserved -= l.reserved
	l.tenant.reserved -= l.reserved
	l.reserved = 0
}

// othersWait reports whether another tenant is in line, or has slots reserved.
func (p *endpoint) othersWait(t *tenant) bool {
	if p.reserved > t.reserved {
		return true
	}
	first := p.line.Front()
	return first != nil && (first.Value != any(t) || first.Next() != nil)
}

// nextLane returns the lane that a free slot goes to, nil if there is none. Lanes
// that have slots reserved already, or are being asked for, have left the line
// but may want more. Without them, of slots that become free together all but
// one would go to other clients.
func (p *endpoint) nextLane() *lane {
	best := p.next(p.breaker.open)
	if p.breaker.open || p.reserved == 0 && p.offered == 0 {
		return best
	}
	for _, l := range p.lanes {
		if l.reserved+l.offered > 0 && (best == nil || l.load() < best.load()) {
			best = l
		}
	}
	return best
}

// next returns the first lane of the tenant in line whose turn it is, nil if
// there is none. The same tenant does not probe twice in a row while another
// waits.
func (p *endpoint) next(probe bool) *lane {
	var best *tenant
	for e := p.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*tenant)
		if probe && t.client == p.probed && p.line.Len() > 1 {
			continue
		}
		if best == nil || t.load() < best.load() {
			best = t
		}
		if best.load() == 0 {
			break
		}
	}
	if best == nil {
		return nil
	}
	return best.lanes.Front().Value.(*lane)
}
