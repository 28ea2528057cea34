package main

import (
	"context"
	"fmt"
)

// runKeyed measures what an Idempotency-Key costs a create, and captures of the API's
// own webhook beside those of webhook_url.
func (l *lab) runKeyed(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	ours, err := l.startDelivering(ctx, s, caddyConfig{
		name: "keyed", options: endpointOption(createConcurrency) + "\t\tpoll 1s 1s\n",
		sites: map[string]string{"api": predictionsRoute(s.api.url(), s.api.addr, "capture webhook webhook_url")},
	})
	if err != nil {
		return section{}, err
	}
	defer ours.stop()
	bare := l.bareContender("create without a webhook", s, create{}, ours)
	bareKeyed := l.bareContender("the same with a key", s, create{keyed: true}, ours)
	hooked := l.hookedContender("create with webhook_url", s, create{}, ours)
	hookedKeyed := l.hookedContender("the same with a key", s, create{keyed: true}, ours)
	other := l.hookedContender("create with webhook_url, ended later", s, create{runs: true}, ours)
	native := l.hookedContender("create with webhook, captured", s, create{runs: true, native: true}, ours)
	for _, pair := range [][]*contender{{bare, bareKeyed}, {hooked, hookedKeyed}, {other, native}} {
		if err := l.compare(ctx, "keyed", l.closed, pair...); err != nil {
			return section{}, err
		}
	}
	table := rateTable(bare, bareKeyed)
	table = append(table, rateTable(hooked, hookedKeyed)[1:]...)
	table = append(table, rateTable(other, native)[1:]...)
	table[0][2] = "share of the one above"
	sec := section{
		title: "Creates with a key, and with the API's own webhook captured",
		text: fmt.Sprintf("%d connections create predictions, each with a new Idempotency-Key, beside the same creates without one. "+
			"A key is claimed in one commit before the create is passed to the API, and its response is kept in another before it leaves; of a create with a webhook that is the commit which it needs anyway. "+
			"The last two rows create predictions that have not ended when the API responds, and are polled a second later: webhook_url beside the API's own webhook with start and completed. "+
			"The receiver must have got both events of each, exactly once, in order.", l.connections),
		table: table,
	}
	sec.atLeast("creates with a key and a webhook, of those without a key", ratios(hookedKeyed.rates, hooked.rates), 0.9)
	sec.atLeast("creates with a key alone, of those without", ratios(bareKeyed.rates, bare.rates), 0.9)
	sec.atLeast("creates with the API's own webhook captured, of those with webhook_url, until both events are delivered", ratios(native.sustained, other.sustained), 1)
	return sec, nil
}
