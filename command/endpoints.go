package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
)

func endpointsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "endpoints",
		Short: "Lists endpoints and their breakers",
		Long: `
Lists the endpoints (scheme, host and port) that the running process delivered
to lately, those whose breaker is open first.`,
		Args: noArgs,
		RunE: run(asking(listEndpoints)),
	}
	addAdmin(cmd)
	reset := &cobra.Command{
		Use:     "reset <endpoint>",
		Short:   "Closes an endpoint's breaker, so that its deliveries go on at once",
		Example: "  caddy replicate-webhook endpoints reset https://hooks.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: run(asking(func(ctx context.Context, t *terminal, c *client.Client, args []string) error {
			r, err := c.ResetEndpoint(ctx, args[0])
			if err != nil {
				return notFound(err, "endpoint", args[0]+" that this process knows")
			}
			if !t.document(r) {
				t.printf("%s is closed: its deliveries go on\n", clean(r.Endpoint))
			}
			return nil
		})),
	}
	addAdmin(reset)
	cmd.AddCommand(reset)
	return cmd
}

func listEndpoints(ctx context.Context, t *terminal, c *client.Client, _ []string) error {
	list, err := c.Endpoints(ctx)
	if err != nil || t.document(list) {
		return err
	}
	if len(list.Results) == 0 {
		t.printf("No endpoints: nothing was delivered lately.\n")
		return nil
	}
	out := table{columns: []column{{"ENDPOINT", 16}, {"BREAKER", 0}, {"IN FLIGHT", 0}, {"FAILURES", 0}, {"PROBE", 0}, {"ERROR", 10}}}
	for _, e := range list.Results {
		probe := "-"
		if !e.Until.IsZero() {
			probe = t.ago(e.Until)
		}
		out.add(cell{text: e.Endpoint}, cell{string(e.State), stateColor(string(e.State))}, cell{text: fmt.Sprint(e.InFlight)},
			cell{text: fmt.Sprint(e.Failures)}, cell{text: probe}, cell{text: e.Error})
		for _, u := range e.URLs {
			out.add(cell{text: "  URL of " + u.Client}, cell{string(u.State), stateColor(string(u.State))}, cell{text: "-"},
				cell{text: fmt.Sprint(u.Failures)}, cell{text: t.ago(u.Until)}, cell{text: u.Error})
		}
		if more := e.URLsOpen - len(e.URLs); more > 0 {
			out.add(cell{text: fmt.Sprintf("  and %d URLs more", more)}, cell{}, cell{}, cell{}, cell{}, cell{})
		}
	}
	out.write(t)
	return nil
}
