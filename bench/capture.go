package main

import (
	"context"
	"fmt"
)

// largeCreate is the size up to which a create without a webhook must not be
// slowed down.
const largeCreate = 64 << 10

// runCapture measures what the plugin costs requests that have no webhook.
func (l *lab) runCapture(ctx context.Context) (section, error) {
	plain, err := l.startCaddy(ctx, caddyConfig{name: "capture-plain", path: apiPath, sites: map[string]string{"api": proxyRoute(l.app.addr, "")}})
	if err != nil {
		return section{}, err
	}
	defer plain.stop()
	ours, err := l.startCaddy(ctx, caddyConfig{
		name: "capture-ours", path: apiPath, sites: map[string]string{"api": predictionsRoute("http://"+l.app.addr+"/v1", l.app.addr)},
	})
	if err != nil {
		return section{}, err
	}
	defer ours.stop()
	sec := section{
		title: "Requests without a webhook",
		text: fmt.Sprintf("What passes through the plugin because it has no webhook_url: requests that are no creates (GET /v1/models), and creates of %s and %s bytes. "+
			"The upstream is an app that responds at once, so that the proxies are most of what is measured. Each create must reach it exactly once.",
			count(bodySize), count(largeCreate)),
	}
	for i, kind := range []struct {
		name    string
		traffic func(context.Context) (traffic, error)
	}{
		{"no create", l.gets},
		{fmt.Sprintf("create of %s bytes", count(bodySize)), l.creates(bodySize)},
		{fmt.Sprintf("create of %s bytes", count(largeCreate)), l.creates(largeCreate)},
	} {
		proxy := caddyContender("reverse_proxy, "+kind.name, "api", plain)
		captured := caddyContender("replicate_predictions + reverse_proxy, "+kind.name, "api", ours)
		proxy.traffic, captured.traffic = kind.traffic, kind.traffic
		if err := l.compare(ctx, "capture", l.closed, proxy, captured); err != nil {
			return section{}, err
		}
		rows := rateTable(proxy, captured)
		if i > 0 {
			rows = rows[1:]
		}
		sec.table = append(sec.table, rows...)
		sec.atLeast(kind.name+" without a webhook, of plain reverse_proxy's requests/s", ratios(captured.rates, proxy.rates), 0.97)
	}
	return sec, nil
}

// gets returns traffic of requests that are not creates.
func (l *lab) gets(context.Context) (traffic, error) {
	request := []byte("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAuthorization: Bearer bench\r\n\r\n")
	feeds := make([]feed, l.connections)
	for i := range feeds {
		feeds[i] = func() ([]byte, bool) { return request, true }
	}
	return traffic{feeds: feeds}, nil
}

// creates returns traffic of creates without a webhook for the app, with the
// check that it received each of them exactly once.
func (l *lab) creates(size int) func(context.Context) (traffic, error) {
	return func(ctx context.Context) (traffic, error) {
		return l.counted(ctx, func() feed {
			t := newCreate(size, create{})
			return func() ([]byte, bool) { return t.write(l.signer.next.Add(1) - 1), true }
		})
	}
}
