// Package notice tells an operator of failures by messages to a URL, such as that of a
// chat tool. What happens again and again is gathered: of one kind, about one endpoint
// or scope, there is one message in each window of time, with how often it happened.
package notice

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
)

const (
	// maxWindows is the number of windows. What is about further endpoints,
	// scopes or reasons shares one window of its kind.
	maxWindows = 256
	// maxAge is how long it is tried to tell of something.
	maxAge = 24 * time.Hour
)

// Happening is something that may be told.
type Happening struct {
	What Kind
	// Subject is the endpoint, the scope or the reason of a rejection, as Kind
	// says.
	Subject string
	// Count is how often it happened, 0 for once.
	Count int
	// Example is the ID of a delivery or event, or the address of a sender.
	Example string
	// Status is the HTTP status of the example, 0 for none.
	Status int
	// Error is why, from a fixed set of texts.
	Error string
}

// Receiver is where one configuration has messages sent. Use makes it the one in use.
type Receiver struct {
	// URL returns the URL. It may be a secret.
	URL func() string
	// What are the kinds of which it is told.
	What map[Kind]bool
	// Every is the length of a window.
	Every time.Duration
	// Send sends a message. It reports false if it can't now.
	Send func(id, url string, body []byte, done func(delivery.NoticeEnd)) bool
	// Logger logs what is given up.
	Logger *zap.Logger
}

// Metrics is told how messages ended.
type Metrics interface {
	// CountNotice counts a message that was received, or was given up.
	CountNotice(what string, sent bool)
}

// Notices gathers what happens and has it sent. It outlives the configurations that
// share it. All methods are safe for concurrent use.
type Notices struct {
	metrics Metrics

	mu        sync.Mutex
	receivers []*Receiver // the last one is in use
	logger    *zap.Logger // of the one that was last in use
	windows   map[subject]*window
}

// subject is what a window is about.
type subject struct {
	what Kind
	name string // empty for all that have no window of their own
}

// window is what has happened and was not told.
type window struct {
	count       int
	first, last time.Time
	example     Happening   // the last one
	timer       *time.Timer // nil once the window since the last message is over
	sending     bool
}

// New returns Notices without a receiver.
func New(m Metrics) *Notices {
	return &Notices{metrics: m, windows: make(map[subject]*window)}
}

// Use makes a receiver the one in use. It is told what the one before was not, at the end
// of the windows that have begun.
func (n *Notices) Use(r *Receiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.receivers = append(n.receivers, r)
	n.logger = r.Logger
	for s, w := range n.windows {
		n.next(s, w)
	}
}

// Leave ends the use of a receiver. With the last one, what was not told is sent at
// once.
func (n *Notices) Leave(r *Receiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, other := range n.receivers {
		if other != r {
			continue
		}
		if len(n.receivers) == 1 {
			for s, w := range n.windows {
				if w.count > 0 && !w.sending {
					n.send(s, w)
				}
			}
		}
		n.receivers = append(n.receivers[:i:i], n.receivers[i+1:]...)
		break
	}
	if last := n.receiver(); last != nil {
		n.logger = last.Logger
		return
	}
	for s, w := range n.windows {
		if !w.sending {
			n.giveUp(s, w)
		}
	}
}

// Add gathers what has happened. The first of its kind about a subject is sent at once,
// and further ones together at the end of the window. What is about the endpoint of the
// receiver is left out: it could not be received.
func (n *Notices) Add(h Happening) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.receiver()
	if r == nil || !r.What[h.What] || h.What.ofEndpoint() && h.Subject == endpointOf(r.URL()) {
		return
	}
	s := subject{h.What, h.Subject}
	w := n.windows[s]
	if w == nil && len(n.windows) >= maxWindows {
		s.name = ""
		w = n.windows[s]
	}
	if w == nil {
		w = new(window)
		n.windows[s] = w
	}
	now := time.Now()
	if w.count == 0 {
		w.first = now
	}
	w.count += max(h.Count, 1)
	w.last, w.example = now, h
	if w.timer == nil && !w.sending {
		n.send(s, w)
	}
}

// receiver returns the one in use, nil if there is none. The caller holds mu.
func (n *Notices) receiver() *Receiver {
	if len(n.receivers) == 0 {
		return nil
	}
	return n.receivers[len(n.receivers)-1]
}

// send sends what a window has gathered and begins the next one. The caller holds mu.
func (n *Notices) send(s subject, w *window) {
	r := n.receiver()
	body, err := json.Marshal(w.message(s))
	if err != nil {
		n.logger.Error("a notice can't be written", zap.String("what", string(s.what)), zap.Error(err))
		delete(n.windows, s)
		return
	}
	sent := *w
	n.begin(s, w, r.Every)
	w.sending = r.Send("ntc_"+rand.Text(), r.URL(), body, func(end delivery.NoticeEnd) { n.ended(s, w, &sent, r, end) })
	if w.sending {
		w.count = 0
	}
}

// begin begins a window, in which nothing else is sent. The caller holds mu.
func (n *Notices) begin(s subject, w *window, every time.Duration) {
	if w.timer != nil {
		w.timer.Stop()
	}
	var timer *time.Timer
	timer = time.AfterFunc(every, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		// It may have fired while another window began.
		if n.windows[s] == w && w.timer == timer {
			w.timer = nil
			n.next(s, w)
		}
	})
	w.timer = timer
}

// next goes on with a window that is over: what was gathered is sent, and without that
// it is forgotten. The caller holds mu.
func (n *Notices) next(s subject, w *window) {
	switch {
	case w.sending || w.timer != nil:
	case w.count == 0:
		delete(n.windows, s)
	case n.receiver() != nil:
		n.send(s, w)
	}
}

// ended notes how the sending of a message ended. What was not received is told again
// in the next window.
func (n *Notices) ended(s subject, w *window, sent *window, by *Receiver, end delivery.NoticeEnd) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w.sending = false
	if end != delivery.NoticeStopped {
		n.metrics.CountNotice(string(s.what), end == delivery.NoticeSent)
	}
	if end != delivery.NoticeSent {
		if w.count == 0 {
			w.last, w.example = sent.last, sent.example
		}
		w.count += sent.count
		w.first = sent.first
	}
	r := n.receiver()
	if end == delivery.NoticeFailed && w.timer == nil {
		n.begin(s, w, by.Every)
	}
	switch {
	case w.count > 0 && (r == nil || time.Since(w.first) > maxAge):
		n.giveUp(s, w)
	case end == delivery.NoticeStopped && r != by:
		n.send(s, w)
	default:
		n.next(s, w)
	}
}

// giveUp forgets what was not told. The caller holds mu.
func (n *Notices) giveUp(s subject, w *window) {
	if w.timer != nil {
		w.timer.Stop()
	}
	delete(n.windows, s)
	if w.count > 0 {
		n.logger.Error("a notice was not received, and is not sent again: look whether the URL of notify is right",
			zap.String("what", string(s.what)), zap.String("about", cmp.Or(s.name, "several")), zap.Int("count", w.count), zap.Time("first", w.first))
	}
}
