package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is what was sent, what was promised in answer, and what arrived. A
// generation is the time from one start or crash to the next.
type ledger struct {
	mu         sync.Mutex
	generation int
	crashes    int
	events     map[string]*webhook
	creates    map[string]bool // by prediction: the client has its 201
	deliveries map[string][]receipt
	// settled has, of deliveries whose outcome is known to be committed, how
	// many receipts there were then. There may be no more.
	settled map[string]int
	// byPrediction has the deliveries' receipts of a prediction, in order.
	byPrediction map[string][]receipt
	faults       []string
	answered     int // 2xx to senders and clients
	reached      func()
	target       int
	to           string
	queue        inboxLedger
	// dead: the power is off. Nothing that a process still says then would
	// have left a real machine, and an fsync that is under way when ext4 is
	// shut down may succeed without effect.
	dead bool
}

// webhook is one webhook to the edge.
type webhook struct {
	id, path, body, signature string
	prediction, event         string
	// stored is the ID that an inbox gave it, as far as it is known.
	stored string
	at     time.Time
	// accepted: a sender has a 2xx for it.
	accepted bool
	// unanswered counts its posts that a crash kept from an answer.
	unanswered int
	// seen counts its requests that reached the app.
	seen int
	// generation of its first 2xx.
	generation int
	// asked: it was sent again after a start since, and was a duplicate.
	asked bool
}

// receipt is one request that reached the receiver of deliveries.
type receipt struct {
	delivery, event string
	generation      int
	attempt         string
	ok              bool // answered 200
	// inbox: it is an event that was passed on to the app.
	inbox bool
	// late: the power is off already, so that a real machine may not have
	// sent it.
	late bool
}

func newLedger() *ledger {
	return &ledger{
		events: make(map[string]*webhook), creates: make(map[string]bool),
		deliveries: make(map[string][]receipt), settled: make(map[string]int), byPrediction: make(map[string][]receipt),
	}
}

// fault notes what must not be. Tests fail at their end, with all of them.
func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// refused notes an answer that is a fault as long as the disk is well.
func (l *ledger) refused(format string, args ...any) {
	l.mu.Lock()
	dead := l.dead
	l.mu.Unlock()
	if !dead {
		l.fault(format, args...)
	}
}

// An answer is to what was sent.
const (
	anything = ""
	anEvent  = "event"
	aCreate  = "create"
)

// answer counts a 2xx to what was sent. The caller holds the lock.
func (l *ledger) answer(to string) {
	l.answered++
	if l.reached != nil && l.answered >= l.target && (l.to == anything || l.to == to) {
		l.reached()
		l.reached = nil
	}
}

// onAnswer calls f once with the nth answer from now, or the first one from then
// on that is to what it says. The caller holds the lock.
func (l *ledger) onAnswer(n int, to string, f func()) {
	l.target, l.to, l.reached = l.answered+n, to, f
}

// update changes the ledger.
func (l *ledger) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// received enters a request to the receiver, and says whether it is the first of
// its delivery.
func (l *ledger) received(prediction string, r receipt) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = len(l.deliveries[r.delivery]) == 0
	r.generation, r.late = l.generation, l.dead
	l.deliveries[r.delivery] = append(l.deliveries[r.delivery], r)
	if !strings.HasSuffix(r.delivery, replayed) { // those come behind the others
		l.byPrediction[prediction] = append(l.byPrediction[prediction], r)
	}
	return first
}

// settle marks the delivery's last receipt as answered with 200.
func (l *ledger) accepted(prediction, delivery string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range [][]receipt{l.deliveries[delivery], l.byPrediction[prediction]} {
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].delivery == delivery && !list[i].ok {
				list[i].ok = true
				break
			}
		}
	}
}

// acceptedNow returns the deliveries that were accepted from the process that
// runs and are not settled.
func (l *ledger) acceptedNow() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, receipts := range l.deliveries {
		if _, settled := l.settled[id]; !settled && slices.ContainsFunc(receipts, func(r receipt) bool { return r.ok && r.generation == l.generation }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// settle notes that the outcomes of deliveries are committed.
func (l *ledger) settle(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.settled[id] = len(l.deliveries[id])
	}
}

// selected gives the events that match.
func (l *ledger) selected(match func(*webhook) bool) (out []*webhook) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if match(e) {
			out = append(out, e)
		}
	}
	return out
}

// owed gives the predictions whose client was promised events that have not all
// arrived.
func (l *ledger) owed() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.creates {
		if !l.arrived(id, "prediction.completed") {
			out = append(out, id)
		}
	}
	return append(out, l.owedByInbox()...)
}

func (l *ledger) arrived(prediction, event string) bool {
	return slices.ContainsFunc(l.byPrediction[prediction], func(r receipt) bool { return r.ok && r.event == event })
}

// totals are what a test reports.
type totals struct {
	events, creates, deliveries, settled, asked     int
	doubledEvents, doubledDeliveries, doubledAtOnce int
	doubledByInbox                                  int
	inbox                                           inboxLedger
}

func (c totals) String() string {
	return fmt.Sprintf("%d events accepted, %d asked for again, %d seen twice by the app; %d creates, %d deliveries, %d settled, %d received twice, at most %d after one crash, %d of them events; %v",
		c.events, c.asked, c.doubledEvents, c.creates, c.deliveries, c.settled, c.doubledDeliveries, c.doubledAtOnce, c.doubledByInbox, &c.inbox)
}

// audit holds the whole ledger against the promises.
func (l *ledger) audit(t *testing.T) (sum totals) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	faults := slices.Clone(l.faults)
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, e := range l.events {
		if e.accepted {
			sum.events++
			if e.asked {
				sum.asked++
			}
			if e.seen == 0 && e.path != inboxPath {
				fault("event %s was accepted and never reached the app", e.id)
			}
		}
		// The app may have an event twice only if a crash took its answer.
		if e.seen > 1+e.unanswered {
			fault("event %s reached the app %d times, with %d posts that got no answer", e.id, e.seen, e.unanswered)
		}
		if e.seen > 1 {
			sum.doubledEvents++
		}
	}
	for id := range l.creates {
		sum.creates++
		if !l.arrived(id, "prediction.completed") {
			fault("prediction %s was answered and its terminal event never arrived: %v", id, l.byPrediction[id])
		}
	}
	l.auditInbox(fault)
	perCrash, eventsPerCrash := make(map[int]int), make(map[int]int)
	for id, receipts := range l.deliveries {
		sum.deliveries++
		if n, settled := l.settled[id]; settled {
			sum.settled++
			if len(receipts) > n {
				fault("delivery %s was made again after its outcome was committed: %v", id, receipts)
			}
		}
		receipts = slices.DeleteFunc(slices.Clone(receipts), func(r receipt) bool { return !r.ok })
		for i := 1; i < len(receipts); i++ {
			if receipts[i].generation == receipts[i-1].generation {
				fault("delivery %s was made twice without a crash in between: %v", id, receipts)
			}
			if receipts[i].inbox && !receipts[i-1].late {
				eventsPerCrash[receipts[i-1].generation]++
			}
			perCrash[receipts[i-1].generation]++
			sum.doubledDeliveries++
		}
	}
	for generation, n := range eventsPerCrash {
		sum.doubledByInbox = max(sum.doubledByInbox, n)
		if n > inHand+uncommitted {
			fault("%d events were passed on again after the crash of generation %d, and at most %d were in flight", n, generation, inHand+uncommitted)
		}
	}
	sum.inbox = l.queue
	for _, n := range perCrash {
		sum.doubledAtOnce = max(sum.doubledAtOnce, n)
	}
	for id, receipts := range l.byPrediction {
		ended := false
		for _, r := range receipts {
			if ended && r.event == "prediction.started" {
				fault("prediction %s: started came after the terminal event: %v", id, receipts)
				break
			}
			ended = ended || r.event != "prediction.started" && !r.late
		}
	}
	for i, f := range faults {
		if i == 20 {
			t.Errorf("and %d more", len(faults)-i)
			break
		}
		t.Error(f)
	}
	return sum
}
