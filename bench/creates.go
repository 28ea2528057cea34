package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// create says what a create holds. The zero value is one of a prediction that the API
// responds to with its end.
type create struct {
	webhook string // the receiver of its events, "" for none
	native  bool   // the webhook is in the API's own members
	keyed   bool   // it has an Idempotency-Key
	runs    bool   // the API responds before the prediction has ended
}

// createTemplate is one request to create a prediction, whose number is overwritten in
// place for each.
type createTemplate struct {
	request []byte
	numbers [][]byte // windows into request
}

// newCreate returns a create of that many bytes, plus the webhook if there is one.
func newCreate(size int, c create) *createTemplate {
	const form = `{"version":"39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b",` +
		`"input":{"seed":"` + idPrefix + `0000000000000000","prompt":"%s","width":1024,"height":768,"guidance_scale":7.5}}`
	body := fmt.Sprintf(form, prompt(size-len(form)+len("%s")))
	switch {
	case c.native:
		body = strings.TrimSuffix(body, "}") + `,"webhook":"` + c.webhook + `","webhook_events_filter":["start","completed"]}`
	case c.webhook != "":
		body = strings.TrimSuffix(body, "}") + `,"webhook_url":"` + c.webhook + `"}`
	}
	var header string
	if c.keyed {
		header += "Idempotency-Key: " + idPrefix + "0000000000000000\r\n"
	}
	if !c.runs {
		header += "Prefer: wait\r\n"
	}
	t := &createTemplate{request: fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAuthorization: Bearer bench\r\n"+
		"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", createPath, header, len(body), body)}
	for from := 0; ; {
		at := bytes.Index(t.request[from:], []byte(idPrefix))
		if at < 0 {
			return t
		}
		from += at + len(idPrefix)
		t.numbers = append(t.numbers, t.request[from:from+16])
	}
}

func (t *createTemplate) write(n uint64) []byte {
	for _, number := range t.numbers {
		writeNumber(number, n)
	}
	return t.request
}

// plainCreates returns traffic of creates without a webhook.
func (l *lab) plainCreates(c create) func(context.Context) (traffic, error) {
	return func(context.Context) (traffic, error) {
		feeds := make([]feed, l.connections)
		for i := range feeds {
			t := newCreate(bodySize, c)
			feeds[i] = func() ([]byte, bool) { return t.write(l.signer.next.Add(1) - 1), true }
		}
		return traffic{feeds: feeds}, nil
	}
}

// delivered is what came of creates with a webhook.
type delivered struct {
	commits float64       // of the stores, for each create
	tail    time.Duration // from the last response to the last receipt
	// From each create's response to the receipts of its events, sorted. One that
	// came before the response was read counts as 0.
	started, terminal []time.Duration
}

// hooked returns traffic of creates whose webhooks go to the receiver, with the
// check that it received both events of each exactly once, signed and in order.
func (l *lab) hooked(nodes []*caddy, to *receiver, c create) func(context.Context) (traffic, error) {
	c.webhook = to.url()
	return func(ctx context.Context) (traffic, error) {
		before, err := to.counts(ctx)
		if err != nil {
			return traffic{}, err
		}
		committed, err := deliveredBy(ctx, nodes)
		if err != nil {
			return traffic{}, err
		}
		commits, err := commitsOf(ctx, nodes)
		if err != nil {
			return traffic{}, err
		}
		lo := l.signer.next.Load()
		feeds, responses := make([]feed, l.connections), make([][]createResponse, l.connections)
		for i := range feeds {
			t := newCreate(bodySize, c)
			feeds[i] = func() ([]byte, bool) {
				n := l.signer.next.Add(1) - 1
				responses[i] = append(responses[i], createResponse{number: n})
				return t.write(n), true
			}
		}
		return traffic{
			feeds:    feeds,
			answered: func(i int) { responses[i][len(responses[i])-1].at = time.Now() },
			check: func(ctx context.Context, r *result) error {
				hi := l.signer.next.Load()
				if uint64(r.requests) != hi-lo {
					return fmt.Errorf("%d creates were sent and %d answered", hi-lo, r.requests)
				}
				got, err := to.lifecycles(ctx, before.taken, lo, hi)
				if err == nil {
					err = awaitDelivered(ctx, nodes, committed+2*r.requests)
				}
				if err != nil {
					return err
				}
				after, err := commitsOf(ctx, nodes)
				r.delivered = got.since(r.ended, responses)
				r.delivered.commits = (after - commits) / float64(r.requests)
				return err
			},
		}, nil
	}
}

// createResponse is a create and when its response was read.
type createResponse struct {
	number uint64
	at     time.Time
}

// lifecycles waits for both events of predictions lo to hi, of a receiver that
// had taken some webhooks before, and checks them.
func (r *receiver) lifecycles(ctx context.Context, before int, lo, hi uint64) (*lifecycles, error) {
	if err := r.await(ctx, before+2*int(hi-lo)); err != nil {
		return nil, err
	}
	receipts, err := r.take(ctx)
	if err != nil {
		return nil, err
	}
	return expectOnce(receipts, lo, hi)
}

// since puts receipts beside the responses.
func (c *lifecycles) since(ended time.Time, responses [][]createResponse) *delivered {
	d := &delivered{tail: max(0, c.lastCame.Sub(ended))}
	for _, feed := range responses {
		for _, a := range feed {
			d.started = append(d.started, max(0, c.started[a.number-c.lo].Sub(a.at)))
			d.terminal = append(d.terminal, max(0, c.terminal[a.number-c.lo].Sub(a.at)))
		}
	}
	slices.Sort(d.started)
	slices.Sort(d.terminal)
	return d
}

// deliveredBy returns the number of deliveries committed as delivered, each
// with its row of the delivery log, since the processes started.
func deliveredBy(ctx context.Context, nodes []*caddy) (int, error) {
	sum := 0.0
	for _, c := range nodes {
		for _, event := range []string{"prediction.started", "prediction.completed"} {
			got, err := c.metric(ctx, `caddy_replicate_webhook_deliveries_total{event="`+event+`",outcome="delivered"}`)
			if err != nil && !errors.Is(err, errNoMetric) {
				return 0, err
			}
			sum += got
		}
	}
	return int(sum), nil
}

// commitsOf returns the number of transactions that the nodes' stores have
// committed.
func commitsOf(ctx context.Context, nodes []*caddy) (sum float64, err error) {
	for _, c := range nodes {
		n, err := c.metric(ctx, "caddy_replicate_webhook_store_commit_batch_count")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// awaitDelivered waits until that many are.
func awaitDelivered(ctx context.Context, nodes []*caddy, want int) error {
	return nodes[0].poll(ctx, func() error {
		got, err := deliveredBy(ctx, nodes)
		if err == nil && got != want {
			err = fmt.Errorf("%d deliveries are committed, want %d", got, want)
		}
		return err
	})
}

// stage is what creates need behind Caddy.
type stage struct {
	api      *api
	receiver *receiver
}

func (l *lab) newStage(ctx context.Context) (*stage, error) {
	var s stage
	var err error
	if s.api, err = l.startAPI(ctx); err != nil {
		return nil, err
	}
	if s.receiver, err = l.startReceiver(ctx, 0); err != nil {
		s.api.stop()
		return nil, err
	}
	return &s, nil
}

func (s *stage) stop() {
	s.api.stop()
	s.receiver.stop()
}

// predictionsRoute returns the route of the plugin before a proxy to the API.
func predictionsRoute(api, upstream string, options ...string) string {
	text := "replicate_predictions {\n\t\t\tapi " + api + "\n"
	for _, o := range options {
		text += "\t\t\t" + o + "\n"
	}
	return text + "\t\t}\n\t\t" + proxyRoute(upstream, "")
}

// deliveryOptions let webhooks go to receivers on loopback, signed with the
// secret that the receivers know.
func deliveryOptions(receivers ...*receiver) string {
	var ports []string
	for _, r := range receivers {
		_, port, _ := net.SplitHostPort(r.addr)
		ports = append(ports, port)
	}
	return "\t\tsigning shared\n\t\tsigning_secret {env." + secretEnv + "}\n" +
		"\t\tegress {\n\t\t\tallow_http\n\t\t\tports " + strings.Join(ports, " ") + "\n\t\t\tallow 127.0.0.0/8\n\t\t}\n"
}

// startDelivering starts a Caddy that captures creates and delivers their
// events to the stage's receiver, and may deliver to others.
func (l *lab) startDelivering(ctx context.Context, s *stage, cfg caddyConfig, others ...*receiver) (*caddy, error) {
	cfg.path = apiPath
	cfg.options += deliveryOptions(append(others, s.receiver)...)
	if cfg.sites == nil {
		cfg.sites = map[string]string{"api": predictionsRoute(s.api.url(), s.api.addr)}
	}
	return l.startCaddy(ctx, cfg)
}

// hookedContender returns a contender of creates of a kind with webhooks.
func (l *lab) hookedContender(name string, s *stage, c create, nodes ...*caddy) *contender {
	side := l.bareContender(name, s, c, nodes...)
	side.expect.mark = `"webhook_status":"pending"`
	side.traffic = l.hooked(nodes, s.receiver, c)
	return side
}

// bareContender returns a contender of creates of a kind without webhooks.
func (l *lab) bareContender(name string, s *stage, c create, nodes ...*caddy) *contender {
	side := caddyContender(name, "api", nodes...)
	side.beside = []*process{s.api.process, s.receiver.process}
	side.expect = expectation{status: 201}
	side.traffic = l.plainCreates(c)
	return side
}

// createConcurrency is how many attempts one endpoint may have in flight where
// it gets all events of a busy API.
const createConcurrency = 32

func endpointOption(concurrency int) string {
	return fmt.Sprintf("\t\tendpoint {\n\t\t\tconcurrency %d\n\t\t}\n", concurrency)
}

// runCreate compares creates whose events are delivered with a proxy that only
// passes them on.
func (l *lab) runCreate(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	plain, err := l.startCaddy(ctx, caddyConfig{name: "create-plain", path: apiPath, sites: map[string]string{"api": proxyRoute(s.api.addr, "")}})
	if err != nil {
		return section{}, err
	}
	defer plain.stop()
	ours, err := l.startDelivering(ctx, s, caddyConfig{name: "create-ours", options: endpointOption(createConcurrency)})
	if err != nil {
		return section{}, err
	}
	defer ours.stop()
	hooked := l.hookedContender("replicate_predictions + reverse_proxy, both events delivered", s, create{}, ours)
	proxy := l.bareContender("reverse_proxy", s, create{}, plain)
	if err := l.compare(ctx, "create", l.closed, proxy, hooked); err != nil {
		return section{}, err
	}
	table := rateTable(proxy, hooked)
	table[0] = append(table[0], "everyone's CPU a request", "commits a request", "last receipt after the last response, ms")
	table[1] = append(table[1], fmt.Sprintf("%.0f µs", proxy.all.median()), "–", "–")
	table[2] = append(table[2], fmt.Sprintf("%.0f µs", hooked.all.median()), hooked.commits.format("%.2f"), hooked.tails.format("%.0f"))
	sec := section{
		title: "Creates with a webhook, end to end",
		text: fmt.Sprintf("%d connections create predictions of %d bytes, one after the other, at an imitation of the API which responds with the finished prediction. "+
			"With the plugin each has a webhook_url: the prediction is committed before its response leaves, and its two events are delivered to a receiver that verifies them. "+
			"The endpoint may have %d attempts in flight. "+
			"Client, Caddy, API and receiver share the machine. After every round the receiver must have got both events of each create, exactly once, in order. "+
			"The CPU of a create has that of its two deliveries in it; everyone is Caddy, the load generator, the API and the receiver.", l.connections, bodySize, createConcurrency),
		table: table,
	}
	sec.atLeast("creates with both events delivered, of plain reverse_proxy's creates/s", ratios(hooked.rates, proxy.rates), 0.4)
	sec.notes = append(sec.notes, "Counted until the last receipt, and not until the last response, the ratio is "+ratios(hooked.sustained, proxy.rates).format("%.2f")+".")
	sec.atMost("backlog at the end: last receipt after the last create's response", hooked.tails, 1000, "ms")
	return sec, nil
}

// runReceipt measures how soon an event is at its receiver, at a rate that is
// served with ease.
func (l *lab) runReceipt(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	ours, err := l.startDelivering(ctx, s, caddyConfig{name: "receipt"})
	if err != nil {
		return section{}, err
	}
	defer ours.stop()
	side := l.hookedContender("replicate_predictions", s, create{}, ours)
	if err := l.compare(ctx, "receipt", l.openAt(createRate), side); err != nil {
		return section{}, err
	}
	started, terminal := *side, *side
	started.name, started.latencies = "prediction.started, after the create's response", side.started
	terminal.name, terminal.latencies = "prediction.completed, after the create's response", side.terminal
	side.name = "the create's response, after it was due"
	sec := section{
		title: "From the response to the receipt",
		text: fmt.Sprintf("%d creates a second, sent when they are due. An event's latency is the time from when the create's response was read by the client to when the receiver had read the webhook. "+
			"prediction.completed is sent after the outcome of prediction.started is committed.", createRate),
		table: latencyTable(side, &started, &terminal),
	}
	for _, c := range []*contender{&started, &terminal} {
		event, _, _ := strings.Cut(c.name, ",")
		sec.atMost("from a create's response to the receipt of "+event+", p50", c.p50, 3, "ms")
		sec.atMost("from a create's response to the receipt of "+event+", p99", c.p99, 15, "ms")
	}
	return sec, nil
}

// createRate is how many creates a second there are where their latency is
// measured.
const createRate = 200
