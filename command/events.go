package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func eventsCommand() *cobra.Command {
	var q operator.EventQuery
	list := run(asking(func(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
		return listEvents(ctx, t, c, q)
	}))
	add := func(cmd *cobra.Command) *cobra.Command {
		addEventFilter(cmd, &q)
		addPage(cmd, &q.Limit, &q.Cursor)
		addAdmin(cmd)
		return cmd
	}
	cmd := add(&cobra.Command{
		Use:   "events",
		Short: "Lists, shows and repeats events of an inbox",
		Long: `
Lists the events that the edge has accepted and stored for its app, newest first.
The subcommands show one with its attempts, and forward events again.

An event is waiting, running while the app has it, and then accepted, refused by
a 410, failed after its last retry, or discarded by an operator.`,
		Example: "  caddy replicate-webhook events --state failed --since 24h",
		Args:    noArgs,
		RunE:    list,
	})
	cmd.AddCommand(
		add(&cobra.Command{Use: "list", Short: "Lists events, newest first", Args: noArgs, RunE: list}),
		showEventCommand(),
		changeCommand(operator.ActionRetry, "retry", "Makes waiting events due now", `
Makes the events named due now, whatever their schedule says. With --all it does
so for all waiting events that the filter selects. The order of a prediction's
events stays, and an open breaker or a paused inbox holds them still.`),
		changeCommand(operator.ActionDiscard, "discard", "Ends waiting events without forwarding them", `
Ends the waiting events named, so that the app never gets them; an attempt under
way is the last. With --all it does so for all waiting events that the filter
selects. A discarded event can be replayed.`),
		changeCommand(operator.ActionReplay, "replay", "Forwards events again that have ended", `
Makes the events named wait again, whatever has become of them, behind those of
their prediction that wait. With --all it does so for all that the filter selects,
which are the failed ones unless --state says otherwise. The app gets the same
bytes, with X-Replicate-Replay: true.

With --forward-to, this command itself sends them to a URL, oldest first, with the
headers that they came with, and nothing becomes of them in the inbox. That works
in any state. An app that verifies signatures may find them too old.`),
	)
	return cmd
}

// addEventFilter adds the flags that select events.
func addEventFilter(cmd *cobra.Command, q *operator.EventQuery) {
	f := cmd.Flags()
	f.StringVar(&q.State, "state", "", "Only in this state: waiting, running, accepted, refused, discarded or failed")
	f.StringVar(&q.Scope, "scope", "", "Only of the inbox of this scope")
	f.StringVar(&q.Event, "event", "", "Only of this event, such as prediction.completed")
	f.StringVar(&q.Prediction, "prediction", "", "Only of the prediction of this id")
	addResponse(cmd, &q.Response)
	enumerate(cmd, "state", "waiting", "running", "accepted", "refused", "discarded", "failed")
	addSince(cmd, &q.Since)
}

func listEvents(ctx context.Context, t *terminal, c *client.Client, q operator.EventQuery) error {
	list, next, err := pages(ctx, q.Limit, q.Cursor, func(limit int, cursor string) ([]operator.Event, string, error) {
		q.Limit, q.Cursor = limit, cursor
		page, err := c.Events(ctx, q)
		return page.Results, page.Next, err
	})
	if err != nil {
		return err
	}
	if t.document(operator.EventPage{Results: list, Next: next}) {
		return nil
	}
	if len(list) == 0 {
		t.printf("No events.\n")
		return nil
	}
	out := table{columns: []column{{"ID", 0}, {"STATE", 0}, {"EVENT", 8}, {"TRIES", 0}, {"ACCEPTED", 0}, {"PREDICTION", 10}, {"SCOPE", 8}}}
	for i := range list {
		e := &list[i]
		out.add(cell{text: e.ID}, cell{e.State, stateColor(e.State)}, cell{text: shortEvent(e.Event)}, cell{text: fmt.Sprint(e.Attempts)},
			cell{text: t.ago(e.Accepted)}, cell{text: e.Prediction}, cell{text: e.Scope})
	}
	out.write(t)
	t.more(next)
	return nil
}

func showEventCommand() *cobra.Command {
	payload := false
	cmd := &cobra.Command{
		Use:   "show <event>",
		Short: "Shows an event with its attempts",
		Long: `
Shows an event, its payload, what is known of the request that brought it, and a
timeline of its attempts. Headers that verify are not shown.`,
		Example: "  caddy replicate-webhook events show evt_1_0123456789abcdef",
		Args:    cobra.ExactArgs(1),
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, args []string) error {
			if payload {
				r, err := c.ForwardRequest(ctx, args[0])
				if err != nil {
					return notFound(err, "event", args[0])
				}
				t.printf("%s", r.Body)
				return nil
			}
			e, err := c.Event(ctx, args[0])
			if err != nil {
				return notFound(err, "event", args[0])
			}
			if !t.document(e) {
				t.event(&e)
			}
			return nil
		})),
	}
	cmd.Flags().BoolVar(&payload, "payload", false, "Write the payload alone, byte for byte as the app gets it")
	addAdmin(cmd)
	return cmd
}

func (t *terminal) event(e *operator.EventDetail) {
	state := cell{e.State, stateColor(e.State)}
	for _, mark := range []struct {
		on   bool
		text string
	}{{e.Replay, "a replay"}, {e.Overtaken, "overtaken by a later event"}} {
		if mark.on {
			state.text += ", " + mark.text
		}
	}
	facts := []fact{
		{"event", cell{e.ID, bold}},
		{"state", state},
		{"scope", cell{text: e.Scope}},
		{"name", cell{text: orNone(e.Event.Event)}},
		{"prediction", cell{text: orNone(e.Prediction)}},
	}
	if r := e.Request; r != nil {
		scheme := "http"
		if r.TLS {
			scheme = "https"
		}
		facts = append(facts,
			fact{"request", cell{text: r.Method + " " + scheme + "://" + r.Host + r.Path + ", from " + r.ClientIP}},
			fact{"sender", cell{text: orNone(r.UserAgent)}},
			fact{"signature", cell{text: t.signed(r)}})
	}
	payload := cell{"deleted to make room, so that it can't be replayed", dim}
	if e.Payload != nil {
		payload = cell{text: shortPayload(e.Payload)}
	}
	t.facts(append(facts, fact{"payload", payload}))
	t.printf("\n")
	url := "" // an app has none
	if len(e.Log) > 0 {
		url = e.Log[0].URL
	}
	line := t.timeline(e.Accepted, "accepted by the edge", url, e.Log)
	switch {
	case e.State == "running":
		line("o", yellow, t.now, fmt.Sprintf("attempt %d is under way", e.Attempts+1))
	case e.State == "waiting" && e.Due.After(t.now):
		line("o", yellow, e.Due, fmt.Sprintf("attempt %d is due %s", e.Attempts+1, t.ago(e.Due)))
	case e.State == "waiting":
		line("o", yellow, e.Due, fmt.Sprintf("attempt %d is due, or waits for an earlier event, the app or the inbox", e.Attempts+1))
	default:
		line("o", stateColor(e.State), e.Ended, e.State)
	}
}

// signed returns what is known of a request's signatures.
func (t *terminal) signed(r *operator.EventRequest) string {
	parts := []string{r.Schemes}
	if r.MessageID != "" {
		parts = append(parts, "message "+r.MessageID)
	}
	if !r.SignedAt.IsZero() {
		parts = append(parts, "of "+exact(r.SignedAt))
	}
	return strings.Join(parts, ", ")
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// changeCommand returns the command of an action.
func changeCommand(a operator.EventAction, name, short, long string) *cobra.Command {
	var q operator.EventQuery
	var all, dry bool
	var to string
	cmd := &cobra.Command{
		Use:   name + " [<event>...]",
		Short: short,
		Long:  long,
		Example: "  caddy replicate-webhook events " + name + " evt_1_0123456789abcdef\n" +
			"  caddy replicate-webhook events " + name + " --all --since 24h --dry-run",
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, ids []string) error {
			sel := selection{all: all, dry: dry, filtered: q != (operator.EventQuery{}), ids: ids}
			if err := sel.check("event", "events"); err != nil {
				return err
			}
			switch {
			case to != "":
				return forward(ctx, t, c, q, ids, to, dry)
			case all:
				return changeAll(ctx, t, c, a, q, dry)
			}
			return each(t, "event", ids, func(id string) (operator.EventChange, error) {
				doc, err := c.ChangeEvent(ctx, a, id)
				if err == nil && !t.json {
					t.printf("%s %s\n", doc.ID, changed[a].one)
				}
				return doc, err
			})
		})),
	}
	addEventFilter(cmd, &q)
	if a == operator.ActionReplay {
		cmd.Flags().StringVar(&to, "forward-to", "", "Send the events to this URL from here, such as http://localhost:3000/webhooks/replicate")
	}
	cmd.Flags().BoolVar(&all, "all", false, "All that the filter selects")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "With --all: count what would be changed, and change nothing")
	addAdmin(cmd)
	return cmd
}

// changed are the words for what an action does with one event, with many, and in
// a dry run.
var changed = map[operator.EventAction]struct{ one, many, dry string }{
	operator.ActionRetry:   {"is due now", "are due now", "would be due now"},
	operator.ActionDiscard: {"is discarded", "are discarded", "would be discarded"},
	operator.ActionReplay:  {"waits again", "wait again", "would wait again"},
}

func changeAll(ctx context.Context, t *terminal, c *client.Client, a operator.EventAction, q operator.EventQuery, dry bool) error {
	q.Limit = operator.MaxLimit
	zero := operator.EventBulk{Action: a, DryRun: dry}
	sum, err := bulk(t, dry, zero, func(cursor string, dry bool) (operator.EventBulk, error) {
		q.Cursor = cursor
		return c.ChangeEvents(ctx, a, q, dry)
	})
	if t.document(sum) {
		return err
	}
	words := changed[a].many
	if dry {
		words = changed[a].dry
	}
	t.printf("%d %s", sum.Changed, words)
	if a == operator.ActionReplay {
		t.printf(", %d wait already, %d have no body any more\n", sum.Unchanged, sum.NoBody)
	} else {
		t.printf(", %d have ended meanwhile\n", sum.Unchanged)
	}
	return err
}
