package faults_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

const (
	// inboxPath is where the edge has an inbox, of scope queue.
	inboxPath = "/webhooks/inbox"
	// inHand is how many events the app has at once.
	inHand = 16
	// uncommitted is how many outcomes the engine commits at once. What it has passed
	// on is with the app or among those.
	uncommitted = 1024
	// replayed ends the name in the ledger of what is passed on once more at an
	// operator's request.
	replayed = "/replay"
)

// inboxLedger is what the ledger has of the operators of the inbox.
type inboxLedger struct {
	// paused: an operator was told that the inbox is paused, in a generation, and
	// nobody has asked for the opposite since.
	paused   bool
	pausedIn int
	// discarded has the events that an operator wanted to be discarded, by ID, with
	// the generation in which that was answered, and 0 if it was not.
	discarded map[string]int
	// replays has the events of which a replay was asked for, by ID: whether it was
	// answered.
	replays map[string]bool
	// listed is up to when events were looked for in the store.
	listed time.Time

	found, pauses, heldPauses, retries int
}

func (q *inboxLedger) String() string {
	answered := 0
	for _, yes := range q.replays {
		if yes {
			answered++
		}
	}
	return fmt.Sprintf("of the inbox %d events found in the store after a start, %d pauses, %d that held over a crash, %d retries, %d discarded, %d replays",
		q.found, q.pauses, q.heldPauses, q.retries, len(q.discarded), answered)
}

// sendToInbox sends the events of a prediction, the second one when the first is
// accepted.
func (w *world) sendToInbox() answer {
	prediction := strings.ToLower(rand.Text())
	first := w.newEventOf(prediction, "prediction.started", inboxPath)
	a := w.send(first)
	accepted := false
	w.ledger.update(func() { accepted = first.accepted }) // a 200 when the power is off is none
	if !accepted {
		return a
	}
	return w.send(w.newEventOf(prediction, "prediction.completed", inboxPath))
}

// stored enters the ID that an inbox gave a webhook, or that it was passed on with.
// The caller holds the lock.
func (l *ledger) stored(e *webhook, id string) {
	switch {
	case id == "":
	case e.stored == "":
		e.stored = id
	case e.stored != id:
		l.faults = append(l.faults, fmt.Sprintf("event %s was accepted as %s and as %s", e.id, e.stored, id))
	}
}

// passedOn is the app behind the inbox. It refuses the first attempt of one event in
// five.
func (w *world) passedOn(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	prediction, event := r.Header.Get("X-Replicate-Prediction-Id"), r.Header.Get("X-Replicate-Event")
	id := r.Header.Get("X-Replicate-Event-Id")
	replay := r.Header.Get("X-Replicate-Replay") == "true"
	w.ledger.update(func() {
		q := &w.ledger.queue
		fault := func(format string, args ...any) {
			w.ledger.faults = append(w.ledger.faults, fmt.Sprintf(format, args...))
		}
		e := w.ledger.events[prediction+" "+event]
		switch generation, discarded := q.discarded[id]; {
		case e == nil || e.body != string(body) || e.signature != r.Header.Get("X-Replicate-Signature"):
			fault("the app got event %s of prediction %s, which nobody sent: %s", event, prediction, body)
			return
		case discarded && generation > 0 && w.ledger.generation > generation+1:
			fault("event %s was discarded and passed on after the next start", id)
		}
		if _, asked := q.replays[id]; replay && !asked {
			fault("event %s was replayed, and nobody asked for it", id)
		}
		// What the process that died has sent may be read after its death.
		if q.paused && w.ledger.generation > q.pausedIn+1 {
			fault("event %s was passed on while the inbox was paused", id)
		}
		w.ledger.stored(e, id)
	})
	if replay {
		id += replayed
	}
	first := w.ledger.received(prediction, receipt{delivery: id, event: event, attempt: r.Header.Get("X-Replicate-Attempt"), inbox: true})
	if first && strings.TrimSuffix(id, replayed)[len(strings.TrimSuffix(id, replayed))-1]%5 == 0 {
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.ledger.accepted(prediction, id)
}

// owedByInbox returns the events that the inbox has accepted or was asked to replay,
// and that the app has not. The caller holds the lock.
func (l *ledger) owedByInbox() (out []string) {
	for _, e := range l.events {
		if _, discarded := l.queue.discarded[e.stored]; e.path == inboxPath && e.accepted && !discarded && !l.arrived(e.prediction, e.event) {
			out = append(out, e.id)
		}
	}
	for id, answered := range l.queue.replays {
		if answered && !slices.ContainsFunc(l.deliveries[id+replayed], func(r receipt) bool { return r.ok }) {
			out = append(out, id+replayed)
		}
	}
	return out
}

// auditInbox holds the ledger against the promises of the inbox alone: what is
// accepted reaches the app, and the events of a prediction do in their order. The
// caller holds the lock.
func (l *ledger) auditInbox(fault func(string, ...any)) {
	for _, id := range l.owedByInbox() {
		fault("event %s was accepted and never reached the app", id)
	}
	for prediction, receipts := range l.byPrediction {
		if e := l.events[prediction+" prediction.started"]; e == nil {
			continue
		}
		for i, r := range receipts {
			if r.event != "prediction.started" && !slices.ContainsFunc(receipts[:i], func(r receipt) bool { return r.ok && r.event == "prediction.started" }) {
				fault("prediction %s: an event came before the app had accepted the earlier one: %v", prediction, receipts)
				break
			}
		}
	}
}

// keeps looks in the store for the events that were accepted since it did so last,
// and for the pause.
func (w *world) keeps() {
	w.t.Helper()
	began := time.Now()
	since := w.ledger.queue.listed
	accepted := w.ledger.selected(func(e *webhook) bool {
		return e.stored != "" && e.accepted && e.path == inboxPath && !e.at.Before(since)
	})
	var ids map[string]bool
	w.untilAdmin("the events in the store", func() error {
		ids = make(map[string]bool)
		list := "events?scope=queue"
		if !since.IsZero() {
			list += "&since=" + url.QueryEscape(since.Add(-time.Second).UTC().Format(time.RFC3339Nano))
		}
		return w.list(list, ids)
	})
	for _, e := range accepted {
		if !ids[e.stored] {
			w.ledger.fault("event %s was accepted before the crash, and the store does not have it as %s", e.id, e.stored)
		}
	}
	var paused bool
	w.untilAdmin("the state of the inbox", func() (err error) {
		paused, err = w.paused()
		return err
	})
	w.ledger.update(func() {
		q := &w.ledger.queue
		q.listed = began
		q.found += len(accepted)
		switch {
		case q.paused && !paused:
			w.ledger.faults = append(w.ledger.faults, "the inbox was paused before the crash and is not after it")
		case q.paused:
			q.heldPauses++
		}
	})
}

// untilAdmin asks the admin API, which has no answer right after a start.
func (w *world) untilAdmin(what string, ask func() error) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * caddyrun.Patience); ; time.Sleep(5 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

// paused asks whether the inbox is paused.
func (w *world) paused() (bool, error) {
	resp, err := w.client.Get(w.URL("PORT_ADMIN", "/replicate_webhook/inbox"))
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	var doc struct {
		Results []struct {
			Scope       string
			PausedSince time.Time `json:"paused_since"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("asking for the inboxes: status %d, %w", resp.StatusCode, err)
	}
	for _, i := range doc.Results {
		if i.Scope == "queue" {
			return !i.PausedSince.IsZero(), nil
		}
	}
	return false, nil
}

// order has the admin API do something, and reports whether it says that it has. What
// it says when the power is off does not count.
func (w *world) order(path string) bool {
	resp, err := w.client.Post(w.URL("PORT_ADMIN", "/replicate_webhook/"+path), "", nil)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	return err == nil && resp.StatusCode == http.StatusOK && !w.ledger.dead
}

// operate is an operator who pauses and resumes the inbox, and retries, discards and
// replays events, at random until stop is closed.
func (w *world) operate(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(mathrand.N(40 * time.Millisecond)):
		}
		switch mathrand.N(6) {
		case 0, 1:
			if w.order("inbox/pause?scope=queue") {
				w.ledger.update(func() {
					q := &w.ledger.queue
					q.paused, q.pausedIn = true, w.ledger.generation
					q.pauses++
				})
				w.discardOne()
			}
		case 2, 3:
			w.ledger.update(func() { w.ledger.queue.paused = false })
			w.order("inbox/resume?scope=queue")
		case 4:
			if w.order("events/retry?scope=queue&limit=10") {
				w.ledger.update(func() { w.ledger.queue.retries++ })
			}
		case 5:
			w.replayOne()
		}
	}
}

// discardOne sends an event and discards it, which may be under way already.
func (w *world) discardOne() {
	e := w.newEventOf(strings.ToLower(rand.Text()), "prediction.completed", inboxPath)
	if a := w.send(e); a.status != http.StatusOK {
		return
	}
	var id string
	w.ledger.update(func() {
		q := &w.ledger.queue
		if q.discarded == nil {
			q.discarded = make(map[string]int)
		}
		if id = e.stored; id != "" {
			q.discarded[id] = 0
		}
	})
	if id != "" && w.order("events/"+id+"/discard") {
		w.ledger.update(func() { w.ledger.queue.discarded[id] = w.ledger.generation })
	}
}

// replayOne asks for an event once more whose outcome is committed.
func (w *world) replayOne() {
	var id string
	w.ledger.update(func() {
		q := &w.ledger.queue
		if q.replays == nil {
			q.replays = make(map[string]bool)
		}
		for _, e := range w.ledger.events {
			_, ended := w.ledger.settled[e.stored]
			if _, asked := q.replays[e.stored]; e.path == inboxPath && ended && !asked {
				id = e.stored
				q.replays[id] = false
				return
			}
		}
	})
	if id != "" && w.order("events/"+id+"/replay") {
		w.ledger.update(func() { w.ledger.queue.replays[id] = true })
	}
}

// resume has the inbox pass events on, whatever was asked for last.
func (w *world) resume() {
	w.t.Helper()
	w.ledger.update(func() { w.ledger.queue.paused = false })
	w.untilAdmin("the inbox to resume", func() error {
		if !w.order("inbox/resume?scope=queue") {
			return fmt.Errorf("refused")
		}
		return nil
	})
}
