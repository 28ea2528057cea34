package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func redeliverCommand() *cobra.Command {
	var q operator.DeliveryQuery
	var all, dry bool
	cmd := &cobra.Command{
		Use:   "redeliver [<delivery>...]",
		Short: "Redelivers events",
		Long: `
Creates a new delivery of the event of each named delivery, whatever its state.
With --all, of each delivery that the filter selects, by default the failed
ones, without events that were delivered since or have a pending delivery. The
payload is the same.`,
		Example: `  caddy replicate-webhook deliveries redeliver dlv_1_0123456789abcdef
  caddy replicate-webhook deliveries redeliver --all --since 24h --dry-run`,
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, ids []string) error {
			filtered := q != (operator.DeliveryQuery{})
			switch {
			case all && len(ids) > 0:
				return errors.New("--all can't be combined with deliveries: name some, or use --all")
			case all:
				return redeliverAll(ctx, t, c, q, dry)
			case len(ids) == 0:
				return errors.New("no delivery is named: give the ids of deliveries, or --all")
			case filtered:
				return errors.New("a filter needs --all")
			case dry:
				return errors.New("--dry-run needs --all")
			}
			return redeliver(ctx, t, c, ids)
		})),
	}
	addFilter(cmd, &q)
	cmd.Flags().BoolVar(&all, "all", false, "All that the filter selects")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "With --all: count what would be redelivered, and redeliver nothing")
	addAdmin(cmd)
	return cmd
}

func redeliver(ctx context.Context, t *terminal, c *client.Client, ids []string) error {
	var done []operator.Redelivery
	var failed error
	for _, id := range ids {
		r, err := c.Redeliver(ctx, id)
		if err != nil {
			// The others may be there.
			failed = errors.Join(failed, notFound(err, "delivery", id))
			if code := exitCode(err); code != exitNotFound && code != exitRefused {
				break
			}
			continue
		}
		done = append(done, r)
		if !t.json {
			t.printf("%s is sent again as %s\n", r.Of, r.ID)
		}
	}
	if len(ids) == 1 && len(done) == 1 {
		t.document(done[0])
	} else if len(done) > 0 {
		t.document(done)
	}
	return failed
}

func redeliverAll(ctx context.Context, t *terminal, c *client.Client, q operator.DeliveryQuery, dry bool) error {
	q.Limit = operator.MaxLimit
	total := 0
	if t.progress && !dry {
		// How many there are is only of use to a bar.
		counted, err := bulk(ctx, c, q, true, func(operator.Bulk) {})
		if err != nil {
			return err
		}
		total = counted.Matched
	}
	bar := progress{to: t.err, width: t.width, total: total}
	sum, err := bulk(ctx, c, q, dry, func(sum operator.Bulk) {
		if total > 0 {
			bar.show(sum.Matched)
		}
	})
	bar.end()
	if !t.document(sum) {
		verb := "sent again"
		if dry {
			verb = "would be sent again"
		}
		t.printf("%d %s, %d arrived since or are on their way, %d have a disabled webhook\n", sum.Redelivered, verb, sum.Overtaken, sum.Disabled)
	}
	if err != nil && sum.Next != "" {
		err = fmt.Errorf("%w; nothing is lost by calling this again", err)
	}
	return err
}

// bulk calls until all is done.
func bulk(ctx context.Context, c *client.Client, q operator.DeliveryQuery, dry bool, step func(operator.Bulk)) (operator.Bulk, error) {
	sum := operator.Bulk{DryRun: dry}
	for {
		page, err := c.RedeliverAll(ctx, q, dry)
		if err != nil {
			return sum, err
		}
		sum.Add(page)
		step(sum)
		if sum.Next == "" {
			return sum, nil
		}
		q.Cursor = sum.Next
	}
}

// progress is a bar that is drawn over itself.
type progress struct {
	to    io.Writer
	width int
	total int
	drawn bool
}

func (p *progress) show(n int) {
	p.drawn = true
	text := fmt.Sprintf(" %d/%d", n, p.total)
	room := 40
	if p.width > 0 {
		room = min(room, p.width-len(text)-3)
	}
	bar := ""
	if room > 0 {
		full := room * min(n, p.total) / p.total
		bar = "[" + strings.Repeat("#", full) + strings.Repeat(".", room-full) + "]"
	}
	fmt.Fprintf(p.to, "\r%s%s", bar, text)
}

func (p *progress) end() {
	if p.drawn {
		fmt.Fprintln(p.to)
	}
}
