package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	first  = "https://first.example.com/hook"
	second = "https://second.example.com/hook"
	now    = int64(1_000_000)
	later  = now + 60_000
)

// life is an entry in a test. A step is one transaction: what it has changed is
// stored before the next.
type life struct {
	*Entry[struct{}]
	tx Tx[struct{}]
	t  *testing.T
}

// begin returns a prediction of the URL first with the events wanted.
func begin(t *testing.T, wanted event.Set, happened ...event.Set) *life {
	l := &life{t: t, tx: Tx[struct{}]{Now: now, Withdraw: func(d *Delivery[struct{}]) bool { return !d.Claimed }}}
	l.Entry = Track(&l.tx, store.Prediction{ID: "p", Client: "c", URL: first, Events: wanted, Credential: []byte("sealed")}, payloads(happened))
	return l
}

func payloads(events []event.Set) (out []store.Event) {
	for _, e := range events {
		out = append(out, store.Event{Kind: e, Payload: []byte(e.Name())})
	}
	return out
}

func (l *life) observe(events ...event.Set) { l.Observe(&l.tx, payloads(events)) }

func (l *life) set(url string) { l.SetWebhook(&l.tx, url, l.Events) }

// the returns the newest delivery of an event.
func (l *life) the(e event.Set) *Delivery[struct{}] {
	for i := len(l.Deliveries) - 1; i >= 0; i-- {
		if l.Deliveries[i].Event == e {
			return l.Deliveries[i]
		}
	}
	l.t.Fatalf("there is no delivery of %s", e.Name())
	return nil
}

// claim begins an attempt at the newest delivery of an event.
func (l *life) claim(e event.Set) (attempt func(store.Disposition)) {
	d := l.the(e)
	if d.Held || d.Claimed || d.State != store.DeliveryPending {
		l.t.Fatalf("the delivery of %s can't be claimed: %+v", e.Name(), d)
	}
	d.Claimed = true
	url := l.URL
	return func(v store.Disposition) {
		l.Complete(&l.tx, d, &store.Outcome{
			Delivery: store.Delivery{URL: url}, Disposition: v, Attempt: store.Attempt{Number: d.Attempts + 1},
		}, later)
	}
}

// deliver makes an attempt with an outcome.
func (l *life) deliver(e event.Set, v store.Disposition) { l.claim(e)(v) }

func (l *life) redeliver(e event.Set) {
	if _, err := l.Redeliver(&l.tx, e, 1); err != nil {
		l.t.Fatal(err)
	}
}

// String returns the webhook status and each delivery: its event, its state, and
// what keeps it from being attempted now.
func (l *life) String() string {
	words := []string{l.Webhook.String() + ":"}
	for _, d := range l.Deliveries {
		w := strings.TrimPrefix(d.Event.Name(), "prediction.")
		if d.Redelivery {
			w += "+"
		}
		w += "=" + d.State.String()
		pending := d.State == store.DeliveryPending
		for _, mark := range []struct {
			on   bool
			name string
		}{{pending && d.Held, "/held"}, {d.Claimed, "/claimed"}, {pending && !d.Claimed && d.Due > now, "/later"}} {
			if mark.on {
				w += mark.name
			}
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

const (
	started   = event.Started
	completed = event.Completed
	failed    = event.Failed
	terminal  = event.Terminal
	all       = event.All
)

func TestRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rule string
		do   func(t *testing.T) *life
		want string
	}{
		// Which events are owed.
		{"an event comes once", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.observe(started, started)
			return l
		}, "pending: started=pending"},
		{"nothing follows the terminal event", func(t *testing.T) *life {
			l := begin(t, all, failed)
			l.observe(started, completed)
			return l
		}, "pending: failed=pending"},
		{"what is not wanted is not delivered", func(t *testing.T) *life {
			return begin(t, completed, started, completed)
		}, "pending: completed=pending"},
		{"a terminal event that is not wanted leaves nothing to send", func(t *testing.T) *life {
			return begin(t, completed, started, failed)
		}, "delivered:"},
		{"then the status is that of a started event", func(t *testing.T) *life {
			l := begin(t, started, started)
			l.observe(completed)
			return l
		}, "pending: started=pending"},
		{"which may have been delivered", func(t *testing.T) *life {
			l := begin(t, started|failed, started)
			l.deliver(started, store.Delivered)
			l.observe(completed)
			return l
		}, "delivered: started=delivered"},
		{"or given up", func(t *testing.T) *life {
			l := begin(t, started|failed, started)
			l.deliver(started, store.Exhausted)
			l.observe(completed)
			return l
		}, "failed: started=failed"},
		{"without a URL nothing is delivered", func(t *testing.T) *life {
			l := begin(t, all)
			l.set("")
			l.observe(started, completed)
			return l
		}, "disabled:"},

		// Order.
		{"the terminal event waits for the started one", func(t *testing.T) *life {
			return begin(t, all, started, completed)
		}, "pending: started=pending completed=pending/held"},
		{"also while its attempt is under way", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.claim(started)
			l.observe(completed)
			return l
		}, "pending: started=pending/claimed completed=pending/held"},
		{"and goes after its first outcome", func(t *testing.T) *life {
			l := begin(t, all, started, completed)
			l.deliver(started, store.Delivered)
			return l
		}, "pending: started=delivered completed=pending"},
		{"a started event that ended holds nothing", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Exhausted)
			l.observe(completed)
			return l
		}, "pending: started=failed completed=pending"},
		{"a redelivery of the started event holds nothing", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Delivered)
			l.redeliver(started)
			l.observe(completed)
			return l
		}, "pending: started=delivered started+=pending completed=pending"},
		{"a canceled attempt that is under way holds the terminal event", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.claim(started)
			l.set("")
			l.set(second)
			l.observe(completed)
			return l
		}, "pending: started=canceled/claimed completed=pending/held"},

		// Supersede.
		{"a started event that fails is superseded by the terminal one", func(t *testing.T) *life {
			l := begin(t, all, started, completed)
			l.deliver(started, store.Retry)
			return l
		}, "pending: started=superseded completed=pending"},
		{"also when it is given up", func(t *testing.T) *life {
			l := begin(t, all, started, completed)
			l.deliver(started, store.Exhausted)
			return l
		}, "pending: started=superseded completed=pending"},
		{"a started event that waits for a retry is superseded", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Retry)
			l.observe(completed)
			return l
		}, "pending: started=superseded completed=pending"},
		{"one whose retry is under way is not", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Retry)
			l.claim(started)
			l.observe(completed)
			return l
		}, "pending: started=pending/claimed completed=pending/held"},
		{"nor by a terminal event that is not wanted", func(t *testing.T) *life {
			l := begin(t, started, started)
			l.deliver(started, store.Retry)
			l.observe(completed)
			return l
		}, "pending: started=pending/later"},
		{"a redelivery that fails is not superseded", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Delivered)
			l.redeliver(started)
			l.observe(completed)
			l.deliver(started, store.Retry)
			return l
		}, "pending: started=delivered started+=pending/later completed=pending"},

		// Outcomes.
		{"a retry is due when the outcome says", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Retry)
			return l
		}, "pending: completed=pending/later"},
		{"the terminal event's delivery is the webhook's", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Delivered)
			return l
		}, "delivered: completed=delivered"},
		{"and its end the webhook's end", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Exhausted)
			return l
		}, "failed: completed=failed"},
		{"the started event's is not, where more is wanted", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.deliver(started, store.Exhausted)
			return l
		}, "pending: started=failed"},
		{"a redelivery can make it good", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Exhausted)
			l.redeliver(completed)
			l.deliver(completed, store.Delivered)
			return l
		}, "delivered: completed=failed completed+=delivered"},
		{"but not worse", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Delivered)
			l.redeliver(completed)
			l.deliver(completed, store.Exhausted)
			return l
		}, "delivered: completed=delivered completed+=failed"},

		// 410.
		{"a 410 disables the webhook and cancels what is pending", func(t *testing.T) *life {
			l := begin(t, all, started, completed)
			l.deliver(started, store.Gone)
			return l
		}, "disabled: started=failed completed=canceled"},
		{"a 410 of a receiver that was replaced is tried at the new one", func(t *testing.T) *life {
			l := begin(t, all, completed)
			attempt := l.claim(completed)
			l.set(second)
			attempt(store.Gone)
			return l
		}, "pending: completed=pending"},
		{"a 410 after the webhook was disabled", func(t *testing.T) *life {
			l := begin(t, all, completed)
			attempt := l.claim(completed)
			l.set("")
			attempt(store.Gone)
			return l
		}, "disabled: completed=canceled"},
		{"a 410 for the other delivery cancels one under way", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Delivered)
			l.redeliver(completed)
			attempt := l.claim(completed)
			l.redeliver(completed)
			l.deliver(completed, store.Gone)
			attempt(store.Retry)
			return l
		}, "disabled: completed=delivered completed+=canceled completed+=failed"},

		// Disable.
		{"disabling cancels what is pending", func(t *testing.T) *life {
			l := begin(t, all, started, completed)
			l.set("")
			return l
		}, "disabled: started=canceled completed=canceled"},
		{"an attempt under way is the last", func(t *testing.T) *life {
			l := begin(t, all, completed)
			attempt := l.claim(completed)
			l.set("")
			attempt(store.Retry)
			return l
		}, "disabled: completed=canceled"},
		{"and counts if it succeeds, though the webhook stays disabled", func(t *testing.T) *life {
			l := begin(t, all, completed)
			attempt := l.claim(completed)
			l.set("")
			attempt(store.Delivered)
			return l
		}, "disabled: completed=delivered"},
		{"what was sent stays sent", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Delivered)
			l.set("")
			return l
		}, "delivered: completed=delivered"},
		{"a webhook is enabled again for what comes", func(t *testing.T) *life {
			l := begin(t, all, started)
			l.set("")
			l.set(second)
			l.observe(completed)
			return l
		}, "pending: started=canceled completed=pending"},
		{"but not after the terminal event", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.set("")
			l.set(second)
			return l
		}, "disabled: completed=canceled"},

		// Redirect.
		{"a new URL makes a retry due at once", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Retry)
			l.set(second)
			return l
		}, "pending: completed=pending"},
		{"the same URL does not", func(t *testing.T) *life {
			l := begin(t, all, completed)
			l.deliver(completed, store.Retry)
			l.set(first)
			return l
		}, "pending: completed=pending/later"},
		{"an attempt under way at the old URL is retried at the new one at once", func(t *testing.T) *life {
			l := begin(t, all, completed)
			attempt := l.claim(completed)
			l.set(second)
			attempt(store.Retry)
			return l
		}, "pending: completed=pending"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			if got := c.do(t).String(); got != c.want {
				t.Errorf("got\n\t%s\nwant\n\t%s", got, c.want)
			}
		})
	}
}

func TestFilterStaysAfterTerminalEvent(t *testing.T) {
	t.Parallel()
	l := begin(t, all, completed)
	l.SetWebhook(&l.tx, first, started)
	if l.Events != all {
		t.Errorf("the filter is %b", l.Events)
	}
	if l.Credential != nil {
		t.Error("the credential is there after the terminal event")
	}
}

func TestRedeliverWithoutURL(t *testing.T) {
	t.Parallel()
	l := begin(t, all, completed)
	l.set("")
	if _, err := l.Redeliver(&l.tx, completed, 1); !errors.Is(err, store.ErrDisabled) {
		t.Errorf("got %v", err)
	}
}

// TestReserved covers what happens between Reserve and the create's response.
func TestReserved(t *testing.T) {
	t.Parallel()
	p := store.Prediction{ID: "p", Client: "c", URL: first, Events: all, Token: []byte("another")}
	reserve := func(t *testing.T) *life {
		l := begin(t, all)
		l.Prediction = Reserved(store.Prediction{Ref: 7, URL: first, Events: all, Token: []byte("token"), ID: "ignored"})
		return l
	}
	for _, c := range []struct {
		name string
		do   func(l *life)
		want string
	}{
		{"nothing", func(*life) {}, "pending:"},
		{"an event that was observed stays", func(l *life) { l.observe(started) }, "pending: started=pending"},
		{"a 410 counts", func(l *life) { l.observe(started); l.deliver(started, store.Gone) }, "disabled: started=failed"},
		{"the end has come", func(l *life) { l.observe(failed); l.deliver(failed, store.Delivered) }, "delivered: failed=delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := reserve(t)
			if l.ID != "" {
				t.Errorf("a reserved prediction has the ID %q", l.ID)
			}
			c.do(l)
			l.Adopt(&l.tx, p, nil)
			if got := l.String(); got != c.want {
				t.Errorf("got\n\t%s\nwant\n\t%s", got, c.want)
			}
			if l.ID != "p" || l.Ref != 7 || string(l.Token) != "token" || !l.Changed.Has(Identity) {
				t.Errorf("adopted as %+v, changed %b", l.Prediction, l.Changed)
			}
		})
	}
}

func TestRetrackKeepsTheFirstToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ had, want string }{{"", "new"}, {"old", "old"}} {
		l := begin(t, all, started)
		if c.had != "" {
			l.Prediction.Token = []byte(c.had)
		}
		l.Retrack(&l.tx, &store.Prediction{Ref: 9, URL: second, Events: terminal, Token: []byte("new")}, payloads([]event.Set{completed}))
		if string(l.Token) != c.want || l.Changed.Has(Token) != (c.had == "") {
			t.Errorf("with %q the token is %q, changed %b", c.had, l.Token, l.Changed)
		}
		if got, want := l.String(), "pending: started=pending completed=pending/held"; got != want || l.URL != second || l.the(started).Lane != store.LaneOf("c", second) {
			t.Errorf("got %s at %s", got, l.URL)
		}
	}
}

// TestLanes covers where a delivery waits after an attempt.
func TestLanes(t *testing.T) {
	t.Parallel()
	own := store.LaneOf("c", first)
	for _, c := range []struct {
		apart, moved bool
		want         store.Lane
	}{
		{false, false, own},
		{true, false, own.Only(first)},
		{true, true, store.LaneOf("c", second)},
	} {
		l := begin(t, all, completed)
		d := l.the(completed)
		d.Claimed = true
		if c.moved {
			l.set(second)
		}
		l.Complete(&l.tx, d, &store.Outcome{Delivery: store.Delivery{URL: first}, Apart: c.apart}, later)
		if d.Lane != c.want {
			t.Errorf("%+v: the lane is %+v", c, d.Lane)
		}
	}
}

// TestChanges covers that an entry names what is to be written, and no more.
func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		do         func(*life)
		prediction Change
		deliveries string
	}{
		{"nothing new", func(l *life) { l.observe(started) }, 0, "[0 0]"},
		{"an outcome that is not the last", func(l *life) { l.deliver(started, store.Delivered) }, 0, fmt.Sprint([]Change{Outcome | Place, Order})},
		{"a delivery of the terminal event", func(l *life) {
			l.deliver(started, store.Delivered)
			l.Changed, l.Deliveries[0].Changed, l.Deliveries[1].Changed = 0, 0, 0
			l.deliver(completed, store.Delivered)
		}, Status, fmt.Sprint([]Change{0, Outcome | Place})},
		{"another filter", func(l *life) { l.SetWebhook(&l.tx, first, terminal) }, Target, "[0 0]"},
		{"another URL", func(l *life) { l.set(second) }, Target, fmt.Sprint([]Change{Place, Place})},
	} {
		l := begin(t, all, started, completed)
		l.Changed = 0
		for _, d := range l.Deliveries {
			d.Changed = 0
		}
		c.do(l)
		var got []Change
		for _, d := range l.Deliveries {
			got = append(got, d.Changed)
		}
		if l.Changed != c.prediction || fmt.Sprint(got) != c.deliveries {
			t.Errorf("%s: changed %b and %v, want %b and %s", c.name, l.Changed, got, c.prediction, c.deliveries)
		}
	}
}
