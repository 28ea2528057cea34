package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func predictionsCommand() *cobra.Command {
	var q operator.PredictionQuery
	var api string
	cmd := &cobra.Command{
		Use:   "predictions [<id>]",
		Short: "Lists predictions that have a webhook, or shows one",
		Long: `
Lists predictions that have a webhook, newest first, or shows the one of an id
with its deliveries.`,
		Example: `  caddy replicate-webhook predictions --status failed
  caddy replicate-webhook predictions ufawqhfynnddngldkgtslldrkq`,
		Args: cobra.MaximumNArgs(1),
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, args []string) error {
			if len(args) == 1 {
				return showPrediction(ctx, t, c, args[0], api)
			}
			return listPredictions(ctx, t, c, q)
		})),
	}
	f := cmd.Flags()
	f.StringVar(&q.Status, "status", "", "Only with this webhook status: pending, delivered, failed or disabled")
	enumerate(cmd, "status", "pending", "delivered", "failed", "disabled")
	f.StringVar(&api, "api", "", "The API that the prediction is of, where several have the id")
	addPage(cmd, &q.Limit, &q.Cursor)
	addAdmin(cmd)
	return cmd
}

// addPage adds the flags of a list.
func addPage(cmd *cobra.Command, limit *int, cursor *string) {
	cmd.Flags().IntVarP(limit, "limit", "n", operator.DefaultLimit, "How many to list")
	cmd.Flags().StringVar(cursor, "cursor", "", "Where to go on, as the list before said")
}

// pages collects up to limit results of a list. Pages may be short, and have a
// largest size.
func pages[T any](ctx context.Context, limit int, cursor string, page func(limit int, cursor string) ([]T, string, error)) (all []T, next string, err error) {
	all, next = []T{}, cursor
	if limit < 1 {
		return nil, "", fmt.Errorf("--limit is %d: it must be at least 1", limit)
	}
	for len(all) < limit {
		results, more, err := page(min(limit-len(all), operator.MaxLimit), next)
		if err != nil {
			return nil, "", err
		}
		all, next = append(all, results...), more
		if next == "" || ctx.Err() != nil {
			break
		}
	}
	return all, next, ctx.Err()
}

// more prints how to get the next page of a list.
func (t *terminal) more(next string) {
	if next == "" {
		return
	}
	_ = t.flush()
	fmt.Fprintf(t.err, "There are more: --cursor %s\n", next)
}

func listPredictions(ctx context.Context, t *terminal, c *client.Client, q operator.PredictionQuery) error {
	list, next, err := pages(ctx, q.Limit, q.Cursor, func(limit int, cursor string) ([]operator.Prediction, string, error) {
		q.Limit, q.Cursor = limit, cursor
		page, err := c.Predictions(ctx, q)
		return page.Results, page.Next, err
	})
	if err != nil {
		return err
	}
	if t.document(operator.PredictionPage{Results: list, Next: next}) {
		return nil
	}
	if len(list) == 0 {
		t.printf("No predictions.\n")
		return nil
	}
	out := table{columns: []column{{"ID", 0}, {"WEBHOOK", 0}, {"HAPPENED", 0}, {"CREATED", 0}, {"URL", 16}}}
	for _, p := range list {
		out.add(cell{text: p.ID}, cell{p.Status, stateColor(p.Status)}, cell{text: events(p.Happened)},
			cell{text: t.ago(p.Created)}, cell{text: p.URL})
	}
	out.write(t)
	t.more(next)
	return nil
}

// events returns the names of events without their common prefix.
func events(names []string) string {
	short := make([]string, len(names))
	for i, n := range names {
		short[i] = shortEvent(n)
	}
	return strings.Join(short, ",")
}

func shortEvent(name string) string { return strings.TrimPrefix(name, "prediction.") }

// stateColor returns the color of a state of a delivery, an event or a webhook.
func stateColor(state string) color {
	switch state {
	case "delivered", "accepted", "closed":
		return green
	case "failed", "refused", "open":
		return red
	case "pending", "waiting", "running", "half_open":
		return yellow
	}
	return dim
}

func showPrediction(ctx context.Context, t *terminal, c *client.Client, id, api string) error {
	p, err := c.Prediction(ctx, id, api)
	if err != nil {
		return notFound(err, "prediction", id)
	}
	if t.document(p) {
		return nil
	}
	url, test := cell{text: p.URL}, ""
	if p.URL == "" {
		url = cell{"none: the webhook is disabled", dim}
	}
	if p.Test {
		test = ", in test mode"
	}
	t.facts([]fact{
		{"prediction", cell{p.ID, bold}},
		{"api", cell{text: p.API}},
		{"client", cell{text: p.Client}},
		{"url", url},
		{"webhook", cell{p.Status, stateColor(p.Status)}},
		{"wants", cell{text: events(p.Events)}},
		{"happened", cell{text: events(p.Happened)}},
		{"created", cell{text: exact(p.Created) + ", " + t.ago(p.Created) + test}},
	})
	if len(p.Deliveries) > 0 {
		t.printf("\n")
		t.deliveries(p.Deliveries)
	}
	return nil
}

// notFound returns an error that names what was not found.
func notFound(err error, what, id string) error {
	if exitCode(err) != exitNotFound {
		return err
	}
	return fmt.Errorf("there is no %s %s%w", what, id, quiet{err})
}
