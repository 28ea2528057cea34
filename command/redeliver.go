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
			sel := selection{all: all, dry: dry, filtered: q != (operator.DeliveryQuery{}), ids: ids}
			if err := sel.check("delivery", "deliveries"); err != nil {
				return err
			}
			if all {
				return redeliverAll(ctx, t, c, q, dry)
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

// selection is what a command is to be done with: what is named, or all that a
// filter selects.
type selection struct {
	all, dry, filtered bool
	ids                []string
}

// check returns an error unless it is one of the two. thing and things are what is
// named, in the singular and the plural.
func (s *selection) check(thing, things string) error {
	switch {
	case s.all && len(s.ids) > 0:
		return fmt.Errorf("--all can't be combined with %s: name some, or use --all", things)
	case s.all:
		return nil
	case len(s.ids) == 0:
		return fmt.Errorf("no %s is named: give the ids of %s, or --all", thing, things)
	case s.filtered:
		return errors.New("a filter needs --all")
	case s.dry:
		return errors.New("--dry-run needs --all")
	}
	return nil
}

func redeliver(ctx context.Context, t *terminal, c *client.Client, ids []string) error {
	return each(t, "delivery", ids, func(id string) (operator.Redelivery, error) {
		r, err := c.Redeliver(ctx, id)
		if err == nil && !t.json {
			t.printf("%s is sent again as %s\n", r.Of, r.ID)
		}
		return r, err
	})
}

// each calls do with what is named, and writes the documents. what is the kind of
// it, for the error when there is none.
func each[T any](t *terminal, what string, ids []string, do func(id string) (T, error)) error {
	var done []T
	var failed error
	for _, id := range ids {
		doc, err := do(id)
		if err != nil {
			// The others may be there.
			err = notFound(err, what, id)
			code := exitCode(err)
			if code == exitRefused && len(ids) > 1 {
				err = fmt.Errorf("%s: %w", id, err)
			}
			failed = errors.Join(failed, err)
			if code != exitNotFound && code != exitRefused {
				break
			}
			continue
		}
		done = append(done, doc)
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
	sum, err := bulk(t, dry, operator.Bulk{DryRun: dry}, func(cursor string, dry bool) (operator.Bulk, error) {
		q.Cursor = cursor
		return c.RedeliverAll(ctx, q, dry)
	})
	if !t.document(sum) {
		verb := "sent again"
		if dry {
			verb = "would be sent again"
		}
		t.printf("%d %s, %d arrived since or are on their way, %d have a disabled webhook\n", sum.Redelivered, verb, sum.Overtaken, sum.Disabled)
	}
	return err
}

// summed is the result of a bulk call, to which those of further calls are added.
type summed[S any] interface {
	*S
	Add(S)
	Progress() (matched int, next string)
}

// bulk calls until all is done, and returns the sum of the results, which begins
// with zero. It draws a bar meanwhile.
func bulk[S any, P summed[S]](t *terminal, dry bool, zero S, call func(cursor string, dry bool) (S, error)) (S, error) {
	run := func(dry bool, step func(matched int)) (S, error) {
		sum := zero
		for cursor := ""; ; {
			page, err := call(cursor, dry)
			if err != nil {
				if cursor != "" {
					err = fmt.Errorf("%w; nothing is lost by calling this again", err)
				}
				return sum, err
			}
			P(&sum).Add(page)
			var matched int
			matched, cursor = P(&sum).Progress()
			step(matched)
			if cursor == "" {
				return sum, nil
			}
		}
	}
	bar := progress{to: t.err, width: t.width}
	if t.progress && !dry {
		// How many there are is only of use to a bar.
		counted, err := run(true, func(int) {})
		if err != nil {
			return zero, err
		}
		bar.total, _ = P(&counted).Progress()
	}
	sum, err := run(dry, func(matched int) {
		if bar.total > 0 {
			bar.show(matched)
		}
	})
	bar.end()
	return sum, err
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
