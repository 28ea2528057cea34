package replicatewebhook

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/notice"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/signingkey"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// Delivery says how outbound webhooks are signed and delivered. Its fields are
// the app's own in JSON. Durations and numbers that are left out or 0 take their
// defaults.
type Delivery struct {
	// Signing is per_client, where each client's webhooks are signed with a
	// key of its own, derived from a master secret that is never used
	// otherwise, or shared. Default: per_client.
	Signing string `json:"signing,omitempty"`

	// SigningSecret signs for all clients under signing shared: the newest
	// first, then the older ones that receivers may still know. Default:
	// one is generated once and kept in the store.
	SigningSecret []string `json:"signing_secret,omitempty"`

	// SealKey seals what the store keeps of credentials and generated
	// secrets: the key in use first, then older ones that still open. What
	// an older one sealed is sealed again with the first.
	// Default, with store sqlite: 32 random bytes in seal.key beside the
	// database. Required with other stores. One that begins with sealkey_
	// is a key itself: its 32 bytes follow in base64.
	SealKey []string `json:"seal_key,omitempty"`

	// Callback is the public URL of a replicate_callback handler. With it,
	// creates ask the API for webhooks of its own, and polling slows down
	// to a safety net. Default: none, predictions are polled.
	Callback string `json:"callback,omitempty"`

	// Poll is how often predictions are asked for.
	Poll poller.Schedule `json:"poll,omitzero"`

	delivery.Options

	// Egress is where webhooks may go.
	Egress Egress `json:"egress,omitzero"`

	// Retention is how long finished things are kept.
	Retention tracker.Retention `json:"retention,omitzero"`

	// Notify is who is told of failures by messages. Default: nobody.
	Notify *Notify `json:"notify,omitempty"`
}

// Egress is where webhooks may go. Addresses of private and special networks
// and of this host are refused, and so is everything but HTTPS.
type Egress struct {
	// AllowHTTP admits http URLs, and port 80 where Ports is not set.
	AllowHTTP bool `json:"allow_http,omitempty"`
	// Ports are the ports admitted. Default: 443 and 8443.
	Ports []int `json:"ports,omitempty"`
	// Allow are networks admitted against the built-in list.
	Allow []string `json:"allow,omitempty"`
	// AllowHost are host names admitted whatever addresses they have, those
	// in Deny apart. Default: none.
	AllowHost []string `json:"allow_host,omitempty"`
	// Deny are networks refused whatever Allow says.
	Deny []string `json:"deny,omitempty"`
}

// sender is the app's outbound half: the tracker that finds out what is owed,
// and the engine that delivers it.
type sender struct {
	upstream *upstream.Client
	keys     *signingkey.Keys
	poller   *poller.Poller
	tracker  *tracker.Tracker
	engine   *delivery.Engine
	// running is the engine while it runs, for other goroutines.
	running *atomic.Pointer[delivery.Engine]
	config  delivery.Config
	ring    *seal.Ring
	keeper  *sealing.Keeper
	ref     *shared.Ref
	// transport makes the requests to the operator's APIs.
	transport *http.Transport
}

// check returns an error if the options alone are not valid.
func (d *Delivery) check() error {
	if err := oneOf("signing", d.Signing, "", "shared", "per_client"); err != nil {
		return err
	}
	if len(d.SigningSecret) > 0 && d.Signing != "shared" {
		return errors.New("signing_secret is for signing shared: add that, or leave signing_secret out, since per_client derives a key for each client")
	}
	if err := tracker.CheckCallback(d.Callback); err != nil {
		return err
	}
	for _, list := range [][]string{d.Egress.Allow, d.Egress.Deny} {
		for _, cidr := range list {
			if _, err := netip.ParsePrefix(cidr); err != nil {
				return fmt.Errorf("egress: %q is not a CIDR prefix: write it like 10.1.0.0/16", cidr)
			}
		}
	}
	for _, port := range d.Egress.Ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("egress: %d is not a valid port", port)
		}
	}
	if err := d.checkNotify(); err != nil {
		return err
	}
	return d.checkRetention()
}

// checkRetention refuses to forget deliveries before the last of the further retries.
func (d *Delivery) checkRetention() error {
	options, keep := d.Options, time.Duration(d.Retention.Deliveries)
	if len(options.Retry.Then) == 0 || options.SetDefaults() != nil {
		return nil // or refused for another reason
	}
	if keep == 0 {
		keep = tracker.DefaultDeliveries
	}
	if whole := options.Retry.Whole(); keep < whole {
		return fmt.Errorf("retention: deliveries is %s, and the retries take %s: keep deliveries for at least as long, or leave out waits of retry then", keep, whole)
	}
	return nil
}

// provisionSender prepares the outbound half. It opens nothing.
func (a *App) provisionSender(ctx caddy.Context) error {
	if err := a.check(); err != nil {
		return err
	}
	if err := a.Options.SetDefaults(); err != nil {
		return err
	}
	secrets, err := a.signingSecrets()
	if err != nil {
		return err
	}
	guard, err := a.Egress.guard()
	if err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	a.sender.running = new(atomic.Pointer[delivery.Engine])
	if err := a.provisionNotify(guard); err != nil {
		return err
	}
	a.sender.transport = http.DefaultTransport.(*http.Transport).Clone()
	keyFile, err := a.provisionRing()
	if err != nil {
		return err
	}
	agent := "caddy-replicate-webhook/" + version()
	if err := a.provisionTracker(secrets, agent, guard); err != nil {
		return err
	}
	a.sender.keeper = sealing.New(sealing.Config{
		Ring: a.sender.ring, File: keyFile, Secret: a.sender.keys.StoredName(),
		Acquire: a.acquire, Logger: a.logger.Named("sealing"),
	})
	a.sender.config = delivery.Config{
		Options:   a.Options,
		Secrets:   a.sender.keys.Secrets,
		Guard:     guard,
		UserAgent: agent,
		Metrics:   metrics.Delivery{},
		Logger:    a.logger.Named("delivery"),
		Trace:     a.spans.Attempt,

		OnDelivered:      a.emitter.delivered,
		OnFailed:         a.emitter.failed,
		OnEndpointOpen:   a.emitter.endpointOpen,
		OnEndpointClosed: a.emitter.endpointClosed,
		OnInboxFailed:    a.emitter.inboxFailed,

		Apps: new(delivery.Apps),
	}
	if old := activeApp(); old != nil {
		// Its last attempts are under way while the new ones begin.
		a.sender.config.Apps = old.sender.config.Apps
	}
	return nil
}

// provisionTracker prepares what finds out which deliveries are owed, and what signs
// them.
func (a *App) provisionTracker(secrets []string, agent string, guard *egress.Guard) (err error) {
	s, passing := &a.sender, clock.New(nil)
	s.upstream = upstream.New(&http.Client{Transport: s.transport})
	s.keys, err = signingkey.New(signingkey.Config{
		PerClient: a.Signing != "shared", Secrets: secrets,
		Acquire: a.acquireSealed, Seal: s.ring, Logger: a.logger.Named("tracker"),
	})
	if err != nil {
		return err
	}
	s.poller, err = poller.New(poller.Config{
		Schedule: a.Poll, Client: s.upstream, Seal: s.ring, Callback: a.Callback, UserAgent: agent, Logger: a.logger.Named("tracker"), Clock: passing,
	})
	if err != nil {
		return err
	}
	s.tracker, err = tracker.New(tracker.Config{
		Acquire: a.acquireSealed, Client: s.upstream, Poller: s.poller,
		Callback:  a.Callback,
		Seal:      s.ring,
		SealReady: func() error { return s.keeper.Ready() },
		Progress:  s.progress,
		CheckURL:  func(raw string) error { _, err := guard.CheckURL(raw); return err },
		Retention: a.Retention,
		Traced:    a.spans.Seen,
		Logger:    a.logger.Named("tracker"), Clock: passing,
	})
	return err
}

// progress sends what a prediction has put out so far.
func (s *sender) progress(p store.Prediction, kind event.Set, payload []byte) {
	engine := s.running.Load()
	if engine == nil {
		return // not started yet, and the next update holds this one
	}
	engine.Progress(delivery.Update{
		Delivery: store.Delivery{
			ID: "prg_" + rand.Text(), Prediction: p.Ref, PredictionID: p.ID, Client: p.Client, URL: p.URL, Traceparent: p.Traceparent,
			Native: true, Event: kind, Payload: payload,
		},
		May: func(ctx context.Context) (now, later bool) { return s.tracker.MayProgress(ctx, p) },
	})
}

// The engine calls these behind a queue of its own. The data of the events holds
// no payload, and of a URL the endpoint alone, because its path may be a secret.

func (e *emitter) delivered(r delivery.Report) {
	e.emit("replicate_webhook_delivered", deliveryData(r))
}

func (e *emitter) failed(r delivery.Report) {
	e.notices.Add(notice.Happening{
		What: notice.Failed, Subject: store.EndpointOf(r.Attempt.URL), Example: r.Delivery.ID, Status: r.Attempt.Status,
	})
	data := deliveryData(r)
	data["error"], data["gone"] = r.Attempt.Error, r.Disposition == store.Gone
	e.emit("replicate_webhook_failed", data)
}

// inboxFailed reports an event that its app has not accepted in time.
func (e *emitter) inboxFailed(r delivery.Report) {
	e.notices.Add(notice.Happening{
		What: notice.InboxFailed, Subject: r.Delivery.Inbound.Scope, Example: r.Delivery.ID, Status: r.Attempt.Status,
	})
	e.emit("replicate_webhook_inbox_failed", map[string]any{
		"id": r.Delivery.ID, "scope": r.Delivery.Inbound.Scope, "event": r.Delivery.Inbound.Name,
		"prediction": r.Delivery.Inbound.PredictionID, "attempts": r.Attempt.Number, "status": r.Attempt.Status, "error": r.Attempt.Error,
	})
}

func deliveryData(r delivery.Report) map[string]any {
	return map[string]any{
		"delivery": r.Delivery.ID, "prediction": r.Delivery.PredictionID, "event": r.Delivery.Event.Name(),
		"endpoint": store.EndpointOf(r.Attempt.URL), "attempts": r.Attempt.Number, "status": r.Attempt.Status,
		"duplicate": r.Duplicate,
	}
}

func (e *emitter) endpointOpen(r delivery.EndpointReport) {
	e.notices.Add(notice.Happening{What: notice.EndpointOpen, Subject: r.Endpoint, Error: r.Error})
	e.emit("replicate_webhook_endpoint_open", map[string]any{
		"endpoint": r.Endpoint, "failures": r.Failures, "until": r.Until.UTC(), "error": r.Error,
	})
}

func (e *emitter) endpointClosed(r delivery.EndpointReport) {
	e.notices.Add(notice.Happening{What: notice.EndpointClosed, Subject: r.Endpoint})
	e.emit("replicate_webhook_endpoint_closed", map[string]any{"endpoint": r.Endpoint})
}

// signingSecrets reads the configured signing secrets. One that changes in its
// file later replaces the one in use.
func (a *App) signingSecrets() ([]string, error) {
	values := make([]string, len(a.SigningSecret))
	for i, c := range a.SigningSecret {
		name := fmt.Sprintf("signing_secret %d", i+1)
		err := a.secrets.Use("signing_secret", name+" of "+appName, c, func(value string) error {
			if err := secret.CheckSigning(value); err != nil {
				return err
			}
			if _, err := signature.ParseSecret(value); err != nil {
				return err
			}
			values[i] = value
			if a.sender.keys == nil {
				return nil
			}
			return a.sender.keys.Set(values)
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(values) > 0 && !strings.HasPrefix(values[0], "whsec_") {
		a.logger.Warn("signing_secret does not begin with whsec_: deliveries have no webhook-signature whose time is new with each attempt, so that receivers which check the time in X-Replicate-Signature's body refuse late retries; use a secret that begins with whsec_")
	}
	return values, nil
}

// guard returns the rules for outbound requests.
func (e *Egress) guard() (*egress.Guard, error) {
	parse := func(list []string) (out []netip.Prefix) {
		for _, cidr := range list {
			out = append(out, netip.MustParsePrefix(cidr)) // checked before
		}
		return out
	}
	return egress.New(egress.Config{AllowHTTP: e.AllowHTTP, Ports: e.Ports, Allow: parse(e.Allow), AllowHosts: e.AllowHost, Deny: parse(e.Deny)})
}

// provisionRing makes the key ring from the configured keys or from the key file,
// whose path it returns. The file is read when the store is opened.
func (a *App) provisionRing() (file string, err error) {
	a.sender.ring = new(seal.Ring)
	var keys []seal.Key
	for i, c := range a.SealKey {
		name := fmt.Sprintf("seal_key %d", i+1)
		err := a.secrets.Use("seal_key", name+" of "+appName, c, func(value string) error {
			if i < len(keys) {
				return errors.New("a sealing key that has changed takes a reload: caddy reload --force")
			}
			k, err := seal.FromSecret(value)
			if err == nil {
				keys = append(keys, k)
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(keys) > 0 {
		return "", a.sender.ring.Set(keys[0], keys[1:]...)
	}
	filer, ok := a.opener.(store.SealKeyFiler)
	if !ok {
		return "", errors.New("seal_key is missing: a store that several nodes share needs one, such as seal_key {env.SEAL_KEY}")
	}
	return filer.SealKeyFile(), nil
}

// unlockTimeout bounds how long reading all that is sealed may take.
const unlockTimeout = 30 * time.Second

// unlock returns an error if the sealed values of a store can't be read.
func (a *App) unlock(ref *shared.Ref) error {
	ctx, cancel := context.WithTimeout(context.Background(), unlockTimeout)
	defer cancel()
	return a.sender.keeper.Unlock(ctx, ref)
}

// acquireSealed is acquire for those who seal: the key must be available before
// anything is captured that can't be stored without it.
func (a *App) acquireSealed() (*shared.Ref, error) {
	ref, err := a.acquire()
	if err != nil {
		return nil, err
	}
	if err := a.unlock(ref); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", store.ErrUnavailable, err), ref.Release())
	}
	return ref, nil
}

// signingStore is a store whose deliveries wait while they can't be signed.
type signingStore struct {
	delivery.Store
	ready func() error
}

// Ready implements delivery.Store.
func (s signingStore) Ready() error {
	if err := s.ready(); err != nil {
		return err
	}
	return s.Store.Ready()
}

// startSender starts polling and delivery.
func (a *App) startSender() error {
	s := &a.sender
	var err error
	if s.ref, err = a.acquire(); err != nil {
		return err
	}
	if err = a.unlock(s.ref); err != nil {
		return err
	}
	s.config.Store = s.ref
	if s.keys.StoredName() != "" {
		s.config.Store = signingStore{s.ref, s.keeper.Ready}
	}
	s.config.Inboxes, s.config.Pauses = a.inboxes, s.ref.Pauses
	if s.engine, err = delivery.New(s.config); err != nil {
		return err
	}
	if err := s.tracker.Start(); err != nil {
		return err
	}
	s.keeper.Start()
	s.engine.Start()
	s.running.Store(s.engine)
	if a.receiver != nil {
		a.receiver.Send = s.engine.Notify
		a.notices.Use(a.receiver)
	}
	return nil
}

// stopSender ends polling and claiming. Attempts in flight end by themselves, with
// a reference to the store of their own. Only when the process exits are they
// waited for.
func (a *App) stopSender() {
	s := &a.sender
	if s.keeper != nil {
		s.keeper.Stop()
	}
	if s.tracker != nil {
		s.tracker.Stop()
		// The last poll may still be under way: what it leaves idle is
		// closed when it is over.
		go func(t *tracker.Tracker) {
			<-t.Done()
			s.transport.CloseIdleConnections()
		}(s.tracker)
	}
	if s.engine == nil {
		_ = s.ref.Release()
		return
	}
	// Cleanup comes after Stop: the reference is the engine's from here on.
	engine, ref := s.engine, s.ref
	s.engine, s.ref = nil, nil
	s.running.Store(nil)
	if a.receiver != nil {
		a.notices.Leave(a.receiver)
	}
	engine.Stop()
	go func() {
		<-engine.Done()
		_ = ref.Release()
	}()
	if !caddy.Exiting() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), exitWait+time.Duration(a.Timeout))
	defer cancel()
	if err := engine.Wait(ctx); err != nil {
		a.logger.Warn("leaving attempts behind: they are repeated after the start", zap.Error(err))
	}
	<-s.tracker.Done()
	<-s.keeper.Done()
}

// exitWait is how long committing the last outcomes may take after their
// attempts' timeout.
const exitWait = 2 * time.Second

// Upstream returns the client that asks the operator's APIs.
func (a *App) Upstream() *upstream.Client { return a.sender.upstream }

// SigningKeys returns the secrets that sign deliveries.
func (a *App) SigningKeys() *signingkey.Keys { return a.sender.keys }

// Tracker returns the tracker of predictions.
func (a *App) Tracker() *tracker.Tracker { return a.sender.tracker }

// Secrets returns the reader of the configuration's secrets.
func (a *App) Secrets() *secret.Watcher { return a.secrets }

// Budget returns the bound on the request bytes that handlers buffer.
func (a *App) Budget() *body.Budget { return a.budget }
