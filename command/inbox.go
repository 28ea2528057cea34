package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func inboxCommand() *cobra.Command {
	list := run(asking(listInboxes))
	add := func(cmd *cobra.Command) *cobra.Command {
		addAdmin(cmd)
		return cmd
	}
	cmd := add(&cobra.Command{
		Use:   "inbox",
		Short: "Lists, pauses and resumes inboxes",
		Long: `
Lists the inboxes, which hold the events that the edge has accepted and stored for
its app. The subcommands pause and resume them.`,
		Args: noArgs,
		RunE: list,
	})
	cmd.AddCommand(
		add(&cobra.Command{Use: "list", Short: "Lists the inboxes", Args: noArgs, RunE: list}),
		add(&cobra.Command{
			Use:   "pause [<scope>...]",
			Short: "Makes the events of inboxes wait untried",
			Long: `
Pauses the inboxes of the scopes named, or the only one there is, on all nodes
within a second and until they are resumed. Events are accepted meanwhile, and
attempts under way go on. The time does not count toward retry_for.`,
			Example: "  caddy replicate-webhook inbox pause default",
			RunE:    run(asking(setPaused(true))),
		}),
		add(&cobra.Command{
			Use:     "resume [<scope>...]",
			Short:   "Has the events of paused inboxes forwarded again",
			Long:    "\nResumes the inboxes of the scopes named, or the only one there is.",
			Example: "  caddy replicate-webhook inbox resume default",
			RunE:    run(asking(setPaused(false))),
		}),
	)
	return cmd
}

func setPaused(paused bool) func(context.Context, *terminal, *client.Client, []string) error {
	return func(ctx context.Context, t *terminal, c *client.Client, scopes []string) error {
		if len(scopes) == 0 {
			only, err := onlyInbox(ctx, c)
			if err != nil {
				return err
			}
			scopes = []string{only}
		}
		return each(t, "inbox of scope", scopes, func(scope string) (operator.Paused, error) {
			doc, err := c.SetPaused(ctx, scope, paused)
			switch {
			case err != nil || t.json:
			case paused:
				t.printf("%s is paused: its events wait until it is resumed\n", clean(doc.Scope))
			default:
				t.printf("%s is resumed: its events are forwarded\n", clean(doc.Scope))
			}
			return doc, err
		})
	}
}

// onlyInbox returns the scope of the only inbox.
func onlyInbox(ctx context.Context, c *client.Client) (string, error) {
	list, err := c.Inboxes(ctx)
	if err != nil {
		return "", err
	}
	switch len(list.Results) {
	case 0:
		return "", fmt.Errorf("there is no inbox%w", quiet{operator.ErrNotFound})
	case 1:
		return list.Results[0].Scope, nil
	}
	var names []string
	for _, in := range list.Results {
		names = append(names, in.Scope)
	}
	return "", errors.New("there are several inboxes: name the scopes, of " + strings.Join(names, ", "))
}

func listInboxes(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
	list, err := c.Inboxes(ctx)
	if err != nil || t.document(list) {
		return err
	}
	if len(list.Results) == 0 {
		t.printf("No inboxes.\n")
		return nil
	}
	out := table{columns: []column{{"SCOPE", 12}, {"STATE", 0}, {"WAITING", 0}, {"OLDEST", 0}, {"FAILED", 0}, {"BYTES", 0}, {"APP", 0}, {"ERROR", 10}}}
	for i := range list.Results {
		in := &list.Results[i]
		state := inboxStateOf(in)
		breaker := new(operator.InboxBreaker)
		if in.Breaker != nil {
			breaker = in.Breaker
		}
		out.add(cell{text: in.Scope}, state, cell{text: fmt.Sprint(in.Events.Waiting)}, cell{text: t.ago(in.OldestWaiting)},
			cell{text: fmt.Sprint(in.Events.Failed)}, cell{text: fmt.Sprint(in.Bytes)},
			cell{string(breaker.State), stateColor(string(breaker.State))}, cell{text: breaker.Error})
	}
	out.write(t)
	return nil
}

// inboxStateOf returns what becomes of the waiting events.
func inboxStateOf(in *operator.Inbox) cell {
	switch {
	case !in.PausedSince.IsZero():
		return cell{"paused", yellow}
	case !in.Configured:
		return cell{"no inbox", red}
	}
	return cell{"running", green}
}

// inbox returns what status says of an inbox.
func (t *terminal) inbox(in *operator.Inbox) cell {
	out := cell{text: fmt.Sprintf("%d waiting", in.Events.Waiting)}
	note := func(c color, format string, args ...any) {
		out.text += ", " + fmt.Sprintf(format, args...)
		if out.color != red {
			out.color = c
		}
	}
	if !in.OldestWaiting.IsZero() {
		note("", "the oldest of %s", t.ago(in.OldestWaiting))
	}
	if in.Events.Failed > 0 {
		note(yellow, "%d failed", in.Events.Failed)
	}
	if !in.PausedSince.IsZero() {
		note(yellow, "paused since %s", exact(in.PausedSince))
	}
	if b := in.Breaker; b != nil && b.State != "closed" {
		note(yellow, "the app is down since %s: %s", exact(b.Since), b.Error)
	}
	switch {
	case in.Configured:
	case in.Events.Waiting > 0:
		note(red, "but there is no inbox for this scope in the configuration: they wait until there is one again")
	default:
		note(dim, "no inbox for this scope in the configuration")
	}
	return out
}
