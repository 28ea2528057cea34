package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows the status of a running Caddy",
		Long: `
Shows the row counts of the store, the attempts in flight, and whether the store
accepts commits; if it does not, the exit code is 4.`,
		Example: "  caddy replicate-webhook status",
		Args:    noArgs,
		RunE:    run(asking(showStatus)),
	}
	addAdmin(cmd)
	return cmd
}

func showStatus(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if !t.document(s) {
		t.status(&s)
	}
	if !s.Store.Ready {
		return refused("the store accepts no commits: %s", s.Store.Error)
	}
	return nil
}

func (t *terminal) status(s *operator.Status) {
	store := cell{s.Store.Kind + ", ready", green}
	if !s.Store.Ready {
		store = cell{s.Store.Kind + ", not ready", red}
	}
	pending := cell{fmt.Sprint(s.Deliveries.Pending), ""}
	if !s.OldestPending.IsZero() {
		pending.text += ", the oldest of " + t.ago(s.OldestPending)
	}
	failed := cell{fmt.Sprint(s.Deliveries.Failed), ""}
	if s.Deliveries.Failed > 0 {
		failed.color = yellow
	}
	endpoints := cell{fmt.Sprintf("%d known, %d open", s.Attempts.Endpoints, s.EndpointsOpen), ""}
	if s.EndpointsOpen > 0 {
		endpoints.color = yellow
	}
	facts := []fact{
		{"version", cell{text: s.Version}},
		{"loaded", cell{text: t.ago(s.Since)}},
		{"store", store},
		{"tracked", cell{text: fmt.Sprint(s.TrackedPredictions) + " predictions"}},
		{"pending", pending},
		{"delivered", cell{text: fmt.Sprint(s.Deliveries.Delivered)}},
		{"failed", failed},
		{"superseded", cell{text: fmt.Sprint(s.Deliveries.Superseded)}},
		{"canceled", cell{text: fmt.Sprint(s.Deliveries.Canceled)}},
		{"attempts", cell{text: fmt.Sprintf("%d in flight", s.Attempts.InFlight)}},
		{"endpoints", endpoints},
		{"dedup", cell{text: fmt.Sprint(s.DedupEntries) + " entries"}},
	}
	for i := range s.Inboxes {
		facts = append(facts, fact{"inbox " + s.Inboxes[i].Scope, t.inbox(&s.Inboxes[i])})
	}
	if s.Store.ClockWrong {
		ahead := time.Duration(s.Store.ClockAhead) * time.Millisecond
		side := "ahead of"
		if ahead < 0 {
			side = "behind"
		}
		facts = append(facts, fact{"clock", cell{fmt.Sprintf("%v %s the database's: nothing expires here, and genuine webhooks may be refused", ahead.Abs().Round(time.Second), side), red}})
	}
	if s.Unreadable > 0 {
		facts = append(facts, fact{"unreadable", cell{fmt.Sprint(s.Unreadable) + " sealed values: seal_key is not the one they were sealed with", red}})
	}
	if !s.Sealing.Ready {
		facts = append(facts, fact{"sealing key", cell{s.Sealing.Error, red}})
	}
	for _, k := range s.Sealing.Keys {
		text := fmt.Sprintf("%d values sealed with this key", k.Values)
		switch {
		case k.Number == 1:
			text = "in use, " + text
		case k.Values == 0 && k.Used:
			text = "no longer needed by this node"
		case k.Values == 0:
			text = "not in use yet: the first key seals"
		}
		facts = append(facts, fact{fmt.Sprintf("seal_key %d", k.Number), cell{text: text}})
	}
	t.facts(facts)
}
