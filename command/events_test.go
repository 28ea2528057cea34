package command_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// eventsSite returns a site with two events that wait in the paused inbox of scope
// a, and one that was recorded in scope b: the app's response was 500.
func eventsSite(t *testing.T) (s *siterun.Site, waiting, later, recorded string) {
	t.Helper()
	s = siterun.Start(t, siterun.Options{})
	db := s.Store()
	if err := db.SetPaused(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	waiting = siterun.Accept(t, db, store.Inbound{Scope: "a", Name: "prediction.completed", PredictionID: "p1", Ordered: true})
	later = siterun.Accept(t, db, store.Inbound{Scope: "a", Name: "prediction.failed", PredictionID: "p2", Ordered: true})
	recorded = siterun.Accept(t, db, store.Inbound{Scope: "b", Name: "response.done", Recorded: &store.Attempt{
		Status: 500, Number: 1, At: time.Now(), Took: 12 * time.Millisecond, Error: "status 500", Response: "no \x1b[2J coffee",
	}})
	return s, waiting, later, recorded
}

func TestEventsAreListedAndShown(t *testing.T) {
	s, waiting, later, recorded := eventsSite(t)
	sh := newShell(t, s)
	sh.ask("events").ok(waiting, later, recorded, "ACCEPTED", "response.done")
	sh.ask("events", "list", "--state", "waiting", "--scope", "a", "--event", "prediction.failed", "--prediction", "p2", "--since", "1h").ok(later)
	if r := sh.ask("events", "--state", "failed").ok(recorded); strings.Contains(r.out, waiting) {
		t.Errorf("lists what is not failed: %s", r.out)
	}
	sh.ask("events", "--state", "running").ok("No events.")
	var all, first, rest operator.EventPage
	sh.ask("events", "--json").json(&all)
	sh.ask("events", "--json", "-n", "1").json(&first)
	sh.ask("events", "--json", "--cursor", first.Next).json(&rest)
	if len(all.Results) != 3 || len(first.Results) != 1 || len(rest.Results) != 2 || first.Results[0].ID != all.Results[0].ID || rest.Results[0].ID != all.Results[1].ID {
		t.Errorf("all are %+v, the first %+v, the rest %+v", all, first, rest)
	}

	r := sh.ask("events", "show", recorded).ok("failed", "response.done", "attempt 1: status 500, took 0.012s", `no \u001b[2J coffee`,
		"POST https://hooks.example.com/webhooks/replicate, from 192.0.2.8", "sender/1", "replicate", "accepted by the edge")
	shown := sh.ask("events", "show", waiting).ok("waiting", "p1", `"status":`, "attempt 1 is due")
	sh.ask("events", "show", recorded, "--json").ok(`"path": "/webhooks/replicate"`)
	for _, out := range []string{r.out, shown.out, sh.ask("events", "show", waiting, "--json").ok().out} {
		if strings.Contains(out, siterun.Signature) || strings.Contains(out, "in-the-query") || strings.Contains(out, "\x1b") {
			t.Errorf("%q shows a signature, a query or an escape sequence", out)
		}
	}
	if r := sh.ask("events", "show", waiting, "--payload").ok(); r.out != `{ "id": "p1", "status": "succeeded" }` {
		t.Errorf("the payload is %q", r.out)
	}
	sh.ask("events", "show", "evt_1_0000000000000000").fails(2, "there is no event evt_1_0000000000000000")
	sh.ask("events", "--state", "pending").fails(1, `state is "pending": use waiting`)
	sh.env = append(sh.env, "COLUMNS=42")
	for _, r := range []result{
		sh.ask("events").ok(recorded), sh.ask("events", "show", recorded).ok("attempt 1"), sh.ask("inbox").ok("paused"), sh.ask("status").ok("inbox a"),
	} {
		for line := range strings.SplitSeq(r.out, "\n") {
			if n := utf8.RuneCountInString(line); n > 42 {
				t.Errorf("%s: %d columns: %s", r.command, n, line)
			}
		}
	}
}

func TestEventsAreChanged(t *testing.T) {
	s, waiting, later, recorded := eventsSite(t)
	sh := newShell(t, s)
	sh.ask("events", "retry", waiting).ok(waiting + " is due now\n")
	sh.ask("events", "discard", waiting).ok(waiting + " is discarded\n")
	sh.ask("events", "discard", waiting).fails(4, "event has ended: replay has it forwarded again")
	sh.ask("events", "replay", later).fails(4, "event is waiting: ")
	sh.ask("events", "replay", recorded).fails(4, "it was only recorded")
	sh.ask("events", "show", waiting).ok("discarded")
	var change operator.EventChange
	sh.ask("events", "replay", waiting, "--json").json(&change)
	if change != (operator.EventChange{ID: waiting, Action: operator.ActionReplay}) {
		t.Errorf("replayed %+v", change)
	}
	sh.ask("events", "show", waiting).ok("waiting, a replay")
	r := sh.ask("events", "discard", waiting, "evt_1_0000000000000000")
	r.fails(2, "there is no event evt_1_0000000000000000")
	r.says(r.out, waiting+" is discarded")

	sh.ask("events", "discard", "--all", "--dry-run").ok("1 would be discarded")
	sh.ask("events", "retry", "--all").ok("1 are due now, 0 have ended meanwhile")
	sh.ask("events", "discard", "--all", "--scope", "none").ok("0 are discarded")
	var sum operator.EventBulk
	sh.ask("events", "discard", "--all", "--json").json(&sum)
	if sum != (operator.EventBulk{Action: operator.ActionDiscard, Matched: 1, Changed: 1}) {
		t.Errorf("discarded %+v", sum)
	}
	sh.ask("events", "replay", "--all").ok("0 wait again, 0 wait already, 1 have no body any more")
	sh.ask("events", "replay", "--all", "--state", "discarded").ok("2 wait again")

	sh.ask("events", "replay").fails(1, "no event is named: give the ids of events, or --all")
	sh.ask("events", "discard", "--scope", "a", waiting).fails(1, "a filter needs --all")
	sh.ask("events", "retry", "--dry-run", waiting).fails(1, "--dry-run needs --all")
	sh.ask("events", "retry", "--all", waiting).fails(1, "--all can't be combined with events")
	sh.ask("events", "replay", "--all", "--state", "waiting").fails(1, "state is waiting: those events are forwarded without a replay")
	sh.ask("events", "discard", "--all", "--state", "failed").fails(1, "state is failed: those events have ended")
}

func TestInboxesArePaused(t *testing.T) {
	s, _, _, _ := eventsSite(t)
	sh := newShell(t, s)
	sh.ask("inbox").ok("SCOPE", "paused", "no inbox")
	sh.ask("status").ok("inbox a", "2 waiting, the oldest of ", "paused since ", "but there is no inbox for this scope in the configuration",
		"inbox b", "0 waiting, 1 failed")
	sh.ask("inbox", "resume").fails(1, "there are several inboxes: name the scopes, of a, b")
	sh.ask("inbox", "pause", "c").fails(2, "there is no inbox of scope c")
	sh.ask("inbox", "pause", "b").ok("b is paused: its events wait until it is resumed")
	var paused operator.Paused
	sh.ask("inbox", "resume", "b", "--json").json(&paused)
	if paused != (operator.Paused{Scope: "b"}) {
		t.Errorf("resumed %+v", paused)
	}
	var list operator.Inboxes
	sh.ask("inbox", "list", "--json").json(&list)
	if len(list.Results) != 2 || list.Results[0].PausedSince.IsZero() || !list.Results[1].PausedSince.IsZero() {
		t.Errorf("the inboxes are %+v", list)
	}
}

// TestWithoutAnInbox: the commands say so, and that there are no events.
func TestWithoutAnInbox(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	sh := newShell(t, s)
	sh.ask("events").ok("No events.")
	sh.ask("inbox").ok("No inboxes.")
	sh.ask("inbox", "pause").fails(2, "there is no inbox")
	sh.ask("inbox", "pause", "default").fails(2, "there is no inbox of scope default")
	sh.ask("events", "replay", "--all").ok("0 wait again")
	if r := sh.ask("status").ok(); strings.Contains(r.out, "inbox") {
		t.Errorf("the status has an inbox: %s", r.out)
	}
}

// TestReplayForwardsFromHere: with --forward-to, the command sends what the app would
// get, and the inbox stays as it is.
func TestReplayForwardsFromHere(t *testing.T) {
	s, waiting, later, recorded := eventsSite(t)
	app := caddyrun.NewApp(t)
	sh := newShell(t, s)
	to := app.URL + "/here"
	sh.ask("events", "replay", "--forward-to", to, recorded, waiting).ok(recorded+"  200 OK  ", waiting+"  200 OK  ")
	seen := app.Seen()
	if len(seen) != 2 {
		t.Fatalf("the app got %d requests", len(seen))
	}
	r := seen[1]
	if r.URL.Path != "/here" || string(r.Got) != `{ "id": "p1", "status": "succeeded" }` {
		t.Errorf("the app got %s with %s", r.URL, r.Got)
	}
	for name, want := range map[string]string{
		"X-Replicate-Signature": siterun.Signature, "Content-Type": "application/json", "X-Replicate-Event-Id": waiting, "X-Replicate-Replay": "true",
		"X-Replicate-Event": "prediction.completed", "X-Replicate-Prediction-Id": "p1", "X-Replicate-Verified": "replicate", "User-Agent": "sender/1",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	sh.ask("events", "show", waiting).ok("waiting", "attempt 1 is due")
	sh.ask("events", "replay", "--forward-to", to, "--all", "--state", "waiting", "--dry-run").ok("2 would be sent")
	if n := app.Count(); n != 2 {
		t.Errorf("the app got %d requests after a dry run", n)
	}
	// Oldest first.
	all := sh.ask("events", "replay", "--forward-to", to, "--all", "--state", "waiting").ok()
	if first, second := strings.Index(all.out, waiting), strings.Index(all.out, later); first < 0 || second < first {
		t.Errorf("the order is %q", all.out)
	}
	app.AnswerStatus(http.StatusTeapot)
	bad := sh.ask("events", "replay", "--forward-to", to, waiting)
	bad.fails(4, "1 of 1 events had no 2xx")
	bad.says(bad.out, "418")
	var docs []struct {
		ID     string
		Status int
	}
	if err := json.Unmarshal([]byte(sh.ask("events", "replay", "--forward-to", to, waiting, "--json").out), &docs); err != nil || len(docs) != 1 || docs[0].ID != waiting || docs[0].Status != 418 {
		t.Errorf("the document is %+v, %v", docs, err)
	}
	sh.ask("events", "replay", "--forward-to", "http://127.0.0.1:1/", waiting, later).fails(4, "sending "+waiting+" to http://127.0.0.1:1/: ")
	sh.ask("events", "replay", "--forward-to", "localhost:3000", waiting).fails(1, "--forward-to: the URL must be absolute")
	sh.ask("events", "replay", "--forward-to", to, "evt_1_0000000000000000").fails(2, "there is no event evt_1_0000000000000000")
	sh.ask("events", "discard", "--forward-to", to, waiting).fails(1, "unknown flag: --forward-to")
}
