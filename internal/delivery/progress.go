package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// What a prediction puts out while it runs is sent at most once, and is in memory
// alone: each update holds all that those before it held.

const (
	// maxProgress is the number of predictions that have updates to be sent.
	maxProgress = 256
	// maxProgressBytes bounds the bodies of all updates that wait or are being
	// sent. One may have up to 16 MiB.
	maxProgressBytes = 64 << 20
	// progressPatience is how long an update waits for the receipt of the event
	// before it.
	progressPatience = time.Minute
	// firstLook and longestLook bound the time between two looks at that.
	firstLook   = 50 * time.Millisecond
	longestLook = 5 * time.Second
)

// Update says what a prediction has put out so far.
type Update struct {
	// Delivery says where it goes. It is not in the store. Event is
	// event.Output or event.Logs.
	Delivery store.Delivery
	// May reports whether the update may be sent now, or else whether it may be
	// later. It is called more than once.
	May func(context.Context) (now, later bool)

	notice *notice // nil for an update of a prediction
}

// progressLine has the updates of one prediction that wait: one of an event.
type progressLine struct {
	client string
	next   []Update
	// bytes is the size of the bodies of those and of the one that is being sent.
	bytes int
}

// hasRoomFor reports whether a client may have an update wait that takes so many bytes
// more, and the place of one more prediction if it is the first of one. One client may
// take half of the room, so that receivers that do not respond keep no other client's
// updates out. e.mu must be held.
func (e *Engine) hasRoomFor(client string, first bool, size int) bool {
	lines, own := len(e.progress), 0
	bytes, ownBytes := size, size
	for _, l := range e.progress {
		if bytes += l.bytes; l.client == client {
			own++
			ownBytes += l.bytes
		}
	}
	return (!first || lines < maxProgress && own < maxProgress/2) && (size <= 0 || bytes <= maxProgressBytes && ownBytes <= maxProgressBytes/2)
}

// Progress sends an update of a prediction once, after those that wait. It takes the
// place of one that waits and is of the same event. One that may not be sent any more,
// because what follows holds it, is left out. One that is sent in vain, or that there is
// no room for, is counted as a failed delivery.
func (e *Engine) Progress(u Update) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, at := e.progress[u.Delivery.Prediction], -1
	size := len(u.Delivery.Payload)
	if l != nil {
		at = slices.IndexFunc(l.next, func(old Update) bool { return old.Delivery.Event == u.Delivery.Event })
	}
	if at >= 0 {
		size -= len(l.next[at].Delivery.Payload)
	}
	switch {
	case !e.started || e.stopped || !e.hasRoomFor(u.Delivery.Client, l == nil, size):
		e.conf.Metrics.CountDelivery(u.Delivery.Event.NativeName(), FinalFailed)
		return
	case l == nil:
		if e.progress == nil {
			e.progress = make(map[int64]*progressLine)
		}
		l = &progressLine{client: u.Delivery.Client}
		e.progress[u.Delivery.Prediction] = l
		e.pending++
		go e.sendProgress(u.Delivery.Prediction, l)
	}
	if l.bytes += size; at >= 0 {
		l.next[at] = u
		return
	}
	l.next = append(l.next, u)
}

// sendProgress sends the updates of a prediction until there are none.
func (e *Engine) sendProgress(prediction int64, l *progressLine) {
	for {
		ready := e.awaitProgress(l)
		e.mu.Lock()
		if len(l.next) == 0 {
			delete(e.progress, prediction)
			e.leave()
			e.mu.Unlock()
			return
		}
		u := l.next[0]
		l.next = slices.Delete(l.next, 0, 1)
		e.mu.Unlock()
		again := false
		switch {
		case u.notice != nil:
			again = e.sendNotice(&u, ready)
		case ready:
			e.sendUpdate(&u)
		}
		e.mu.Lock()
		if again {
			l.next = slices.Insert(l.next, 0, u)
		} else {
			l.bytes -= len(u.Delivery.Payload)
		}
		e.mu.Unlock()
	}
}

// sendUpdate sends an update once.
func (e *Engine) sendUpdate(u *Update) {
	r := e.client.attempt(&u.Delivery, 1, e.conf.Now(), func() bool {
		now, _ := u.May(e.life)
		return now
	})
	final := FinalFailed
	if r.outcome.success() {
		final = FinalDelivered
	}
	e.conf.Metrics.CountAttempt(r.outcome)
	e.conf.Metrics.CountDelivery(u.Delivery.Event.NativeName(), final)
}

// awaitProgress waits until the first update of a line may be sent. It reports false
// for one that may not.
func (e *Engine) awaitProgress(l *progressLine) bool {
	for wait, waited := firstLook, time.Duration(0); ; wait = min(2*wait, longestLook) {
		e.mu.Lock()
		if len(l.next) == 0 || e.stopped && !l.next[0].notice.first() {
			e.mu.Unlock()
			return false
		}
		u := l.next[0]
		now, later := false, true
		if u.notice != nil {
			now = e.beginNotice(&u)
		}
		e.mu.Unlock()
		if u.notice == nil {
			now, later = u.May(e.life)
			later = later && waited < progressPatience
		}
		if now || !later {
			return now
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.quit:
			timer.Stop()
			return false
		}
		waited += wait
	}
}
