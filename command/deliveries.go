package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func deliveriesCommand() *cobra.Command {
	var q operator.DeliveryQuery
	list := run(asking(func(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
		return listDeliveries(ctx, t, c, q)
	}))
	add := func(cmd *cobra.Command) *cobra.Command {
		addFilter(cmd, &q)
		addPage(cmd, &q.Limit, &q.Cursor)
		addAdmin(cmd)
		return cmd
	}
	cmd := add(&cobra.Command{
		Use:   "deliveries",
		Short: "Lists, shows and redelivers deliveries",
		Long: `
Lists deliveries, newest first. The subcommands show one with its attempts, and
redeliver.`,
		Example: "  caddy replicate-webhook deliveries --state failed --since 24h",
		Args:    noArgs,
		RunE:    list,
	})
	cmd.AddCommand(
		add(&cobra.Command{Use: "list", Short: "Lists deliveries, newest first", Args: noArgs, RunE: list}),
		showCommand(), redeliverCommand(),
	)
	return cmd
}

// addFilter adds the flags that select deliveries.
func addFilter(cmd *cobra.Command, q *operator.DeliveryQuery) {
	f := cmd.Flags()
	f.StringVar(&q.State, "state", "", "Only in this state: pending, delivered, failed, superseded or canceled")
	f.StringVar(&q.Event, "event", "", "Only of this event: started, completed or failed")
	f.StringVar(&q.Endpoint, "endpoint", "", "Only to this endpoint, such as https://hooks.example.com:8443")
	f.StringVar(&q.Prediction, "prediction", "", "Only of the prediction of this id")
	f.StringVar(&q.Client, "client", "", "Only of clients whose name has this in it")
	addResponse(cmd, &q.Response)
	enumerate(cmd, "state", "pending", "delivered", "failed", "superseded", "canceled")
	enumerate(cmd, "event", "started", "completed", "failed")
	addSince(cmd, &q.Since)
}

// addResponse adds the flag that selects by the response to the last attempt.
func addResponse(cmd *cobra.Command, response *string) {
	cmd.Flags().StringVar(response, "response", "", "Only with this response to the last attempt: 2xx, 3xx, 4xx, 5xx or none")
	enumerate(cmd, "response", "2xx", "3xx", "4xx", "5xx", "none")
}

// addSince adds the flag that selects what is new.
func addSince(cmd *cobra.Command, since *string) {
	cmd.Flags().StringVar(since, "since", "", "Only from then on: a time such as 2026-11-25T12:00:00Z, or how long ago, such as 24h")
}

func listDeliveries(ctx context.Context, t *terminal, c *client.Client, q operator.DeliveryQuery) error {
	list, next, err := pages(ctx, q.Limit, q.Cursor, func(limit int, cursor string) ([]operator.Delivery, string, error) {
		q.Limit, q.Cursor = limit, cursor
		page, err := c.Deliveries(ctx, q)
		return page.Results, page.Next, err
	})
	if err != nil {
		return err
	}
	if t.document(operator.DeliveryPage{Results: list, Next: next}) {
		return nil
	}
	if len(list) == 0 {
		t.printf("No deliveries.\n")
		return nil
	}
	t.deliveries(list)
	t.more(next)
	return nil
}

func (t *terminal) deliveries(list []operator.Delivery) {
	out := table{columns: []column{{"ID", 0}, {"STATE", 0}, {"EVENT", 0}, {"TRIES", 0}, {"CREATED", 0}, {"PREDICTION", 10}, {"ENDPOINT", 12}}}
	for _, d := range list {
		out.add(cell{text: d.ID}, cell{d.State, stateColor(d.State)}, cell{text: shortEvent(d.Event)}, cell{text: fmt.Sprint(d.Attempts)},
			cell{text: t.ago(d.Created)}, cell{text: d.Prediction}, cell{text: d.Endpoint})
	}
	out.write(t)
}

func showCommand() *cobra.Command {
	payload := false
	cmd := &cobra.Command{
		Use:     "show <delivery>",
		Short:   "Shows a delivery with its attempts",
		Long:    "\nShows a delivery, its payload and a timeline of its attempts.",
		Example: "  caddy replicate-webhook deliveries show dlv_1_0123456789abcdef",
		Args:    cobra.ExactArgs(1),
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, args []string) error {
			d, err := c.Delivery(ctx, args[0])
			if err != nil {
				return notFound(err, "delivery", args[0])
			}
			switch {
			case payload:
				t.printf("%s", d.Payload)
			case !t.document(d):
				t.delivery(&d)
			}
			return nil
		})),
	}
	cmd.Flags().BoolVar(&payload, "payload", false, "Write the payload alone, byte for byte as receivers get it")
	addAdmin(cmd)
	return cmd
}

// shownPayload is the number of bytes of a payload that are shown.
const shownPayload = 1000

func (t *terminal) delivery(d *operator.DeliveryDetail) {
	state := cell{d.State, stateColor(d.State)}
	if d.Redelivery {
		state.text += ", a redelivery"
	}
	url := cell{text: d.URL}
	if d.URL == "" {
		url = cell{"none: the webhook is disabled", dim}
	}
	t.facts([]fact{
		{"delivery", cell{d.ID, bold}},
		{"state", state},
		{"event", cell{text: d.Event}},
		{"prediction", cell{text: d.Prediction}},
		{"client", cell{text: d.Client}},
		{"url", url},
		{"payload", cell{text: shortPayload(d.Payload)}},
	})
	t.printf("\n")
	line := t.timeline(d.Created, "committed", d.URL, d.Log)
	switch {
	case d.Breaker != nil && d.Breaker.Until.After(t.now):
		line("o", yellow, d.Breaker.Until, fmt.Sprintf("waits for the %s: its breaker is open, and attempt %d may be made %s", d.Breaker.Of, d.Attempts+1, t.ago(d.Breaker.Until)))
	case d.Breaker != nil:
		line("o", yellow, d.Breaker.Until, fmt.Sprintf("waits for the %s: its breaker is half-open, and one attempt decides", d.Breaker.Of))
	case d.State == "pending" && d.Due.After(t.now):
		line("o", yellow, d.Due, fmt.Sprintf("attempt %d is due %s", d.Attempts+1, t.ago(d.Due)))
	case d.State == "pending":
		line("o", yellow, d.Due, fmt.Sprintf("attempt %d is due or under way", d.Attempts+1))
	default:
		line("o", stateColor(d.State), d.Ended, d.State)
	}
}

// shortPayload returns the beginning of a payload.
func shortPayload(payload []byte) string {
	if len(payload) > shownPayload {
		return fmt.Sprintf("%s… (%d bytes, --payload has all)", strings.ToValidUTF8(string(payload[:shownPayload]), ""), len(payload))
	}
	return string(payload)
}

// timeline writes what happened, line by line, and returns a function that writes
// one more. first is what happened at the beginning, and to the URL of now.
func (t *terminal) timeline(began time.Time, first, to string, log []operator.Attempt) func(sign string, c color, at time.Time, text string) {
	exact := exact
	if t.width > 0 && t.width < 70 {
		exact = func(at time.Time) string { return at.UTC().Format("15:04:05.000Z") }
	}
	line := func(sign string, c color, at string, text string) {
		t.facts([]fact{{sign + " " + at, cell{text, c}}})
	}
	line("o", "", exact(began), first)
	for i := range log {
		a := &log[i]
		text, c := fmt.Sprintf("attempt %d: ", a.Number), red
		switch {
		case a.OK():
			text, c = text+fmt.Sprintf("%d", a.Status), green
		case a.Error != "":
			text += a.Error
		default:
			text += fmt.Sprintf("%d", a.Status)
		}
		text += fmt.Sprintf(", took %.3fs", a.Seconds)
		line("|", c, exact(a.At), text)
		if a.Response != "" {
			line("|", dim, strings.Repeat(" ", len(exact(a.At))), a.Response)
		}
		if i > 0 && a.URL != log[i-1].URL || i == 0 && a.URL != to {
			line("|", dim, strings.Repeat(" ", len(exact(a.At))), "to "+a.URL)
		}
	}
	return func(sign string, c color, at time.Time, text string) { line(sign, c, exact(at), text) }
}
