package notice

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
)

const own = "https://chat.example/services/s3cret"

// inbox is what a receiver got, and decides how sending ends.
type inbox struct {
	t    *testing.T
	mu   sync.Mutex
	got  []string
	end  delivery.NoticeEnd // 0 to hold it
	held []func(delivery.NoticeEnd)
}

func (i *inbox) send(_, url string, body []byte, done func(delivery.NoticeEnd)) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	var m Message
	if err := json.Unmarshal(body, &m); err != nil || m.Text == "" || m.Hint == "" || m.First.After(m.Last) || url != own {
		i.t.Errorf("%s: %v", body, err)
	}
	i.got = append(i.got, fmt.Sprintf("%s %s%s%s %d", m.What, m.Endpoint, m.Scope, m.Reason, m.Count))
	if end := i.end; end != 0 {
		go done(end)
	} else {
		i.held = append(i.held, done)
	}
	return true
}

func (i *inbox) receiver() *Receiver {
	r := &Receiver{URL: func() string { return own }, What: make(map[Kind]bool), Every: time.Minute, Send: i.send, Logger: zap.NewNop()}
	for _, k := range Kinds() {
		r.What[k] = true
	}
	return r
}

// ends says how sending ends from now on. What was got before is forgotten.
func (i *inbox) ends(end delivery.NoticeEnd) {
	synctest.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got, i.end = nil, end
}

func (i *inbox) want(want ...string) {
	i.t.Helper()
	synctest.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	if !slices.Equal(i.got, want) {
		i.t.Fatalf("got %q, want %q", i.got, want)
	}
	i.got = nil
}

type counted struct {
	mu           sync.Mutex
	sent, failed int
}

func (c *counted) want(t *testing.T, sent, failed int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent != sent || c.failed != failed {
		t.Errorf("counted %d sent and %d failed, want %d and %d", c.sent, c.failed, sent, failed)
	}
}

func (c *counted) CountNotice(_ string, sent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent {
		c.sent++
	} else {
		c.failed++
	}
}

// test runs a test with one receiver in use.
func test(t *testing.T, run func(*testing.T, *Notices, *inbox, *counted)) {
	synctest.Test(t, func(t *testing.T) {
		m, i := new(counted), &inbox{t: t, end: delivery.NoticeSent}
		n := New(m)
		n.Use(i.receiver())
		run(t, n, i, m)
		time.Sleep(2 * maxAge)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.windows) > 0 {
			t.Errorf("%d windows are left", len(n.windows))
		}
	})
}

// TestOneNoticeForEachSubjectAndWindow: the first is told at once, and how many came
// after it at the end of each window, exactly.
func TestOneNoticeForEachSubjectAndWindow(t *testing.T) {
	test(t, func(t *testing.T, n *Notices, i *inbox, m *counted) {
		n.Add(Happening{What: Failed, Subject: "https://a.example:443"})
		i.want("failed https://a.example:443 1")
		for range 50 {
			n.Add(Happening{What: Failed, Subject: "https://a.example:443"})
		}
		n.Add(Happening{What: Failed, Subject: "https://b.example:443"})
		n.Add(Happening{What: Rejected, Subject: "signature", Count: 7})
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		i.want("failed https://b.example:443 1", "rejected signature 7", "inbox_failed default 1")
		time.Sleep(time.Minute)
		i.want("failed https://a.example:443 50")
		time.Sleep(time.Minute)
		i.want()
		n.Add(Happening{What: Failed, Subject: "https://a.example:443"})
		i.want("failed https://a.example:443 1")
		m.want(t, 6, 0)
	})
}

// TestNoticesAboutTheirOwnReceiverAreLeftOut, so that none is about another.
func TestNoticesAboutTheirOwnReceiverAreLeftOut(t *testing.T) {
	test(t, func(_ *testing.T, n *Notices, i *inbox, _ *counted) {
		for _, k := range []Kind{Failed, EndpointOpen, EndpointClosed} {
			n.Add(Happening{What: k, Subject: "https://chat.example:443"})
		}
		i.want()
	})
}

// TestOnlyWhatIsAskedForIsTold
func TestOnlyWhatIsAskedForIsTold(t *testing.T) {
	test(t, func(_ *testing.T, n *Notices, i *inbox, _ *counted) {
		r := i.receiver()
		r.What = map[Kind]bool{EndpointOpen: true}
		n.Use(r)
		for _, k := range Kinds() {
			n.Add(Happening{What: k, Subject: "x"})
		}
		i.want("endpoint_open x 1")
	})
}

// TestWhatWasNotReceivedIsToldAgain, with what came after it, until a day has passed.
func TestWhatWasNotReceivedIsToldAgain(t *testing.T) {
	test(t, func(t *testing.T, n *Notices, i *inbox, m *counted) {
		i.ends(delivery.NoticeFailed)
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		i.want("inbox_failed default 1")
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		time.Sleep(time.Minute)
		i.want("inbox_failed default 2")
		i.ends(delivery.NoticeSent)
		time.Sleep(time.Minute)
		i.want("inbox_failed default 2")
		time.Sleep(time.Hour)
		i.want()
		m.want(t, 1, 2)
		i.ends(delivery.NoticeFailed)
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		time.Sleep(maxAge + time.Hour)
		i.ends(delivery.NoticeSent)
		time.Sleep(time.Hour)
		i.want()
	})
}

// TestWindowsOutliveConfigurations: what waits is told to the receiver of the next one,
// and with the last one at once.
func TestWindowsOutliveConfigurations(t *testing.T) {
	test(t, func(t *testing.T, n *Notices, i *inbox, _ *counted) {
		first := n.receivers[0]
		i.ends(0)
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		i.want("inbox_failed default 1")
		next := &inbox{t: t, end: delivery.NoticeSent}
		r := next.receiver()
		n.Use(r)
		n.Leave(first)
		i.held[0](delivery.NoticeStopped) // as an engine does that stops
		next.want("inbox_failed default 2")
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		next.want()
		last := next.receiver()
		n.Use(last) // which the window outlives, too
		n.Leave(r)
		next.want()
		n.Leave(last)
		next.want("inbox_failed default 1")
		n.Add(Happening{What: InboxFailed, Subject: "default"})
		next.want()
	})
}

// TestWindowsAreBounded: what is about further subjects is told together, and nothing
// is lost.
func TestWindowsAreBounded(t *testing.T) {
	test(t, func(t *testing.T, n *Notices, i *inbox, _ *counted) {
		for k := range maxWindows + 1000 {
			n.Add(Happening{What: Failed, Subject: fmt.Sprint("https://", k, ".example:443")})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		i.mu.Lock()
		got := i.got
		i.mu.Unlock()
		sum := 0
		for _, line := range got {
			var what, about string
			var count int
			if _, err := fmt.Sscan(strings.Replace(line, "failed  ", "failed - ", 1), &what, &about, &count); err != nil {
				t.Fatal(line, err)
			}
			sum += count
		}
		if sum != maxWindows+1000 || len(got) != maxWindows+2 {
			t.Errorf("%d messages count %d", len(got), sum)
		}
	})
}

// TestTextIsForChatTools: it is one line, says what a person needs, and has no mentions
// or links of its own.
func TestTextIsForChatTools(t *testing.T) {
	at := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		h    Happening
		n    int
		want string
	}{
		{Happening{What: Failed, Subject: "https://a.example:443", Example: "dlv_1", Status: 500}, 3, "3 deliveries to https://a.example:443 failed and will not be tried again; last status 500; last dlv_1. caddy replicate-webhook deliveries show dlv_1"},
		{Happening{What: EndpointOpen, Subject: "https://a.example:443", Error: "connection refused"}, 1, "https://a.example:443 does not respond: its deliveries wait; connection refused. caddy replicate-webhook endpoints"},
		{Happening{What: EndpointClosed, Subject: "https://a.example:443"}, 2, "https://a.example:443 responds again: its deliveries go on (2 times). caddy replicate-webhook deliveries --state failed"},
		{Happening{What: InboxFailed, Subject: "<!channel>", Example: "evt_1"}, 1, "1 event of inbox &lt;!channel&gt; not accepted by the app in time; last evt_1. caddy replicate-webhook events show evt_1"},
		{Happening{What: Rejected, Subject: "signature", Example: "192.0.2.1", Status: 401}, 9, "9 requests rejected at the edge: signature; last status 401; last 192.0.2.1. docs/troubleshooting.md says what each reason means"},
		{Happening{What: Failed, Example: "dlv_1"}, 5, "5 deliveries to further endpoints failed and will not be tried again; last dlv_1. caddy replicate-webhook deliveries show dlv_1"},
	} {
		w := window{count: c.n, first: at, last: at, example: c.h}
		if m := w.message(subject{c.h.What, c.h.Subject}); m.Text != c.want {
			t.Errorf("got %q, want %q", m.Text, c.want)
		}
	}
}
