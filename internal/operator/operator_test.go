package operator_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// opener opens one SQLite file.
type opener struct{ path string }

func (o opener) Resource() string { return "sqlite " + o.path }
func (o opener) Open() (store.Closer, error) {
	return sqlite.Open(sqlite.Options{Path: o.path})
}

// noPolls stands for a poller where a test is not about it.
type noPolls struct{}

func (noPolls) Stats() poller.Stats { return poller.Stats{} }

// fakeKeys stands for signing keys.
type fakeKeys struct{ perClient bool }

func (k fakeKeys) PerClient() bool  { return k.perClient }
func (fakeKeys) Unreadable() uint64 { return 0 }
func (fakeKeys) SigningSecret(_ context.Context, client string) (string, error) {
	return "secret of " + client, nil
}

type desk struct {
	*operator.Service
	t     *testing.T
	store *shared.Ref
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	o := opener{filepath.Join(t.TempDir(), "webhook.db")}
	ref, err := shared.Acquire(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ref.Release(); err != nil {
			t.Error(err)
		}
	})
	return &desk{t: t, store: ref, Service: operator.New(operator.Config{
		Version: "v1", Store: "sqlite", Acquire: func() (*shared.Ref, error) { return shared.Acquire(o) },
		Engine: func() operator.Engine { return nil }, Poller: noPolls{}, Keys: fakeKeys{perClient: true}, Sealing: unsealed{},
	})}
}

func payload(id string) []byte {
	return fmt.Appendf(nil, `{"event":"prediction.completed","prediction":{"id":%q},"timestamp":"2026-01-01T00:00:00.000Z"}`, id)
}

func (d *desk) track(api, id string, e event.Set) store.Prediction {
	d.t.Helper()
	p := store.Prediction{API: api, ID: id, Client: "someone", URL: "https://a.example.com/hook", Events: event.All, CreatedAt: time.Now()}
	if err := d.store.Track(d.t.Context(), &p, []store.Event{{Kind: e, Payload: payload(id)}}); err != nil {
		d.t.Fatal(err)
	}
	return p
}

// attempt ends everything that is due.
func (d *desk) attempt(v store.Disposition) {
	d.t.Helper()
	claimed, _, err := d.store.ClaimDeliveries(d.t.Context(), 1000, func(store.Lane) store.Slots { return store.Slots{N: 1000} })
	for _, c := range claimed {
		err = errors.Join(err, d.store.Complete(d.t.Context(), store.Outcome{Delivery: c, Disposition: v, Attempt: store.Attempt{
			Delivery: c.ID, Event: c.Event, URL: c.URL, Status: 500, Number: c.Attempts + 1, At: time.Now(), Error: "status 500",
		}}))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// bulk calls until all is done.
func (d *desk) bulk(q operator.DeliveryQuery, dry bool, want operator.Bulk) {
	d.t.Helper()
	got := operator.Bulk{DryRun: dry}
	for {
		page, err := d.RedeliverAll(d.t.Context(), q, dry)
		if err != nil {
			d.t.Fatal(err)
		}
		if q.Limit > 0 && page.Matched > q.Limit {
			d.t.Fatalf("bulk did %+v in one call, the limit is %d", page, q.Limit)
		}
		got.Add(page)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if got != want {
		d.t.Fatalf("bulk did %+v, want %+v", got, want)
	}
}

func TestBulkRedeliversEachEventOnce(t *testing.T) {
	d := newDesk(t)
	for i := range 70 {
		d.track("https://api.example.com", fmt.Sprint("p", i), event.Completed)
	}
	d.attempt(store.Exhausted)
	gone := d.track("https://api.example.com", "gone", event.Completed)
	d.attempt(store.Exhausted)
	if err := d.store.SetWebhook(t.Context(), gone.Ref, "", event.All); err != nil {
		t.Fatal(err)
	}
	d.bulk(operator.DeliveryQuery{Limit: 20}, true, operator.Bulk{Matched: 71, Redelivered: 70, Disabled: 1, DryRun: true})
	d.bulk(operator.DeliveryQuery{Limit: 500}, true, operator.Bulk{Matched: 71, Redelivered: 70, Disabled: 1, DryRun: true})
	d.bulk(operator.DeliveryQuery{Limit: 500}, false, operator.Bulk{Matched: 71, Redelivered: 70, Disabled: 1})
	// What is on its way is not sent once more.
	d.bulk(operator.DeliveryQuery{Limit: 500}, false, operator.Bulk{Matched: 71, Overtaken: 70, Disabled: 1})
	d.attempt(store.Delivered)
	d.bulk(operator.DeliveryQuery{Limit: 500}, false, operator.Bulk{Matched: 71, Overtaken: 70, Disabled: 1})
	// Asked for what has arrived, of the two deliveries the later one stands.
	d.bulk(operator.DeliveryQuery{Limit: 500, State: "delivered"}, false, operator.Bulk{Matched: 70, Redelivered: 70})
	d.attempt(store.Exhausted)
	// Two failed ones of one event are redelivered as one.
	d.bulk(operator.DeliveryQuery{Prediction: "p1"}, false, operator.Bulk{Matched: 2, Redelivered: 1, Overtaken: 1})
}

func TestRedeliverySharesThePayload(t *testing.T) {
	d := newDesk(t)
	d.track("https://api.example.com", "p", event.Completed)
	d.attempt(store.Exhausted)
	page, err := d.Deliveries(t.Context(), operator.DeliveryQuery{})
	if err != nil || len(page.Results) != 1 || page.Next != "" {
		t.Fatalf("listed %+v, %v", page, err)
	}
	again, err := d.Redeliver(t.Context(), page.Results[0].ID)
	if err != nil || again.Of != page.Results[0].ID {
		t.Fatalf("redelivered %+v, %v", again, err)
	}
	got, err := d.Delivery(t.Context(), again.ID)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Payload) != string(payload("p")) || !got.Redelivery || got.State != "pending" || got.Due.IsZero() || !got.Ended.IsZero() {
		t.Fatalf("redelivery is %+v with payload %s", got, got.Payload)
	}
	old, err := d.Delivery(t.Context(), again.Of)
	if err != nil || len(old.Log) != 1 || old.Log[0].Status != 500 || old.Log[0].OK() || old.Ended.IsZero() {
		t.Fatalf("old one is %+v, %v", old, err)
	}
	if _, err := d.Redeliver(t.Context(), "dlv_none"); !errors.Is(err, operator.ErrNotFound) {
		t.Fatalf("redelivering what is not there: %v", err)
	}
}

func TestPredictionOfSeveralAPIs(t *testing.T) {
	d := newDesk(t)
	d.track("https://one.example.com", "p", event.Completed)
	if got, err := d.Prediction(t.Context(), "p", ""); err != nil || got.API != "https://one.example.com" || len(got.Deliveries) != 1 {
		t.Fatalf("found %+v, %v", got, err)
	}
	d.track("https://two.example.com", "p", event.Failed)
	var refused *operator.InvalidError
	if _, err := d.Prediction(t.Context(), "p", ""); !errors.As(err, &refused) || refused.Option != "api" {
		t.Fatalf("without the API: %v", err)
	}
	got, err := d.Prediction(t.Context(), "p", "https://two.example.com")
	if err != nil || got.API != "https://two.example.com" || len(got.Deliveries) != 1 || got.Deliveries[0].Event != "prediction.failed" {
		t.Fatalf("found %+v, %v", got, err)
	}
	if _, err := d.Prediction(t.Context(), "p", "https://three.example.com"); !errors.Is(err, operator.ErrNotFound) {
		t.Fatalf("of another API: %v", err)
	}
}

func TestStatusWithoutStore(t *testing.T) {
	broken := errors.New("disk is gone")
	s := operator.New(operator.Config{
		Acquire: func() (*shared.Ref, error) { return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, broken) },
		Engine:  func() operator.Engine { return nil }, Poller: noPolls{}, Keys: fakeKeys{}, Sealing: unsealed{},
	})
	got, err := s.Status(t.Context())
	if err != nil || got.Store.Ready || got.Store.Error == "" || got.API != operator.APIVersion {
		t.Fatalf("status %+v, %v", got, err)
	}
	if _, err := s.Deliveries(t.Context(), operator.DeliveryQuery{}); !errors.Is(err, operator.ErrUnavailable) {
		t.Fatalf("listing: %v", err)
	}
}

func TestQueriesAreRefusedWithAReason(t *testing.T) {
	d := newDesk(t)
	for query, option := range map[string]string{
		"state=open": "state", "event=prediction.paused": "event", "endpoint=ftp://a": "endpoint", "endpoint=https://": "endpoint",
		"since=yesterday": "since", "since=-5m": "since", "limit=0": "limit", "limit=501": "limit", "limit=x": "limit", "limit=-1": "limit",
		"cursor=!": "cursor", "cursor=0": "cursor", "cursor=-1": "cursor", "state=failed&state=pending": "state", "stat=failed": "stat",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := operator.ParseDeliveryQuery(v)
		if err == nil {
			_, err = d.Deliveries(t.Context(), q)
		}
		var refused *operator.InvalidError
		if !errors.As(err, &refused) || refused.Option != option {
			t.Errorf("%s: %v, want what is wrong with %s", query, err, option)
		}
	}
	if _, err := d.RedeliverAll(t.Context(), operator.DeliveryQuery{State: "pending"}, false); err == nil {
		t.Error("pending deliveries were redelivered")
	}
}

func TestQueriesAreWrittenAsTheyAreRead(t *testing.T) {
	q := operator.DeliveryQuery{State: "failed", Event: "started", Endpoint: "a.example.com", Prediction: "p&=?", Since: "24h", Limit: 7, Cursor: "1z"}
	if got, err := operator.ParseDeliveryQuery(q.Values()); err != nil || got != q {
		t.Errorf("got %+v, %v; want %+v", got, err, q)
	}
	p := operator.PredictionQuery{Status: "failed", ID: "x", Limit: 7, Cursor: "1z"}
	if got, err := operator.ParsePredictionQuery(p.Values()); err != nil || got != p {
		t.Errorf("got %+v, %v; want %+v", got, err, p)
	}
	if v := (operator.DeliveryQuery{}).Values(); !reflect.DeepEqual(v, url.Values{}) {
		t.Errorf("empty query is %v", v)
	}
}

func TestSecretOfWhom(t *testing.T) {
	shared := operator.New(operator.Config{Keys: fakeKeys{}})
	own := newDesk(t)
	own.track("https://api.example.com/v1", "p1", event.Completed)
	if got, err := shared.Secret(t.Context(), ""); err != nil || got.Signing != "shared" || got.Secret != "secret of " {
		t.Errorf("shared: %+v, %v", got, err)
	}
	if got, err := own.Secret(t.Context(), "someone"); err != nil || got != (operator.Secret{Signing: "per_client", Client: "someone", Secret: "secret of someone"}) {
		t.Errorf("own: %+v, %v", got, err)
	}
	if got, err := own.Secret(t.Context(), "nobody"); !errors.Is(err, operator.ErrNotFound) {
		t.Errorf("own, of a client that has no prediction: %+v, %v", got, err)
	}
	var refused *operator.InvalidError
	if _, err := shared.Secret(t.Context(), "me"); !errors.As(err, &refused) {
		t.Errorf("shared, of a client: %v", err)
	}
	if _, err := own.Secret(t.Context(), ""); !errors.As(err, &refused) {
		t.Errorf("own, of nobody: %v", err)
	}
}

// TestRotationOfWhom: of a client that has predictions, or of all, for an overlap that makes
// sense.
func TestRotationOfWhom(t *testing.T) {
	shared := operator.New(operator.Config{Keys: fakeKeys{}})
	var refused *operator.InvalidError
	if _, err := shared.Rotate(t.Context(), nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "write the new signing_secret before the old one") {
		t.Errorf("shared: %v", err)
	}
	own := newDesk(t)
	own.track("https://api.example.com/v1", "p1", event.Completed)
	rotate := func(query string) (operator.Rotation, error) {
		t.Helper()
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		return own.Rotate(t.Context(), v)
	}
	for query, want := range map[string]string{
		"client=":        "client is empty: name the client of a prediction, or leave it out to rotate the keys of all clients",
		"overlap=":       `overlap is "": write`,
		"overlap=-1h":    `overlap is "-1h": write for how long the keys before sign, too, such as 24h, or 0s for not at all`,
		"overlap=soon":   `overlap is "soon": write`,
		"overlap=30d1s":  `overlap is "30d1s", which is more than 30d: use 30d or less`,
		"overlap=99999h": `overlap is "99999h", which is more than 30d`,
	} {
		if got, err := rotate(query); !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %+v, %v", query, got, err)
		}
	}
	for _, query := range []string{"client=nobody", "client=*"} {
		if got, err := rotate(query); !errors.Is(err, operator.ErrNotFound) {
			t.Errorf("%s: %+v, %v", query, got, err)
		}
	}
	if got := own.store.KeyGenerations("someone"); len(got) != 1 || got[0] != 0 {
		t.Fatalf("after none but errors, generations %v sign", got)
	}
	for i, c := range []struct {
		query, client string
		overlap       time.Duration
		signing       []int64
	}{
		{"client=someone", "someone", 24 * time.Hour, []int64{1, 0}},
		{"client=someone&overlap=30d", "someone", 30 * 24 * time.Hour, []int64{2, 1, 0}},
		{"", "", 24 * time.Hour, []int64{3, 2, 1, 0}},
		{"overlap=0s", "", 0, []int64{4}},
	} {
		before := time.Now().Truncate(time.Millisecond)
		got, err := rotate(c.query)
		if err != nil || got.Client != c.client || got.Generation != int64(i+1) || got.Until.Before(before.Add(c.overlap)) || got.Until.After(time.Now().Add(c.overlap)) {
			t.Errorf("%q: %+v, %v", c.query, got, err)
		}
		if got := own.store.KeyGenerations("someone"); !slices.Equal(got, c.signing) {
			t.Errorf("%q: generations %v sign, want %v", c.query, got, c.signing)
		}
	}
	for range store.MaxOverlaps {
		if _, err := rotate("client=someone"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rotate("client=someone"); !errors.Is(err, operator.ErrOverlaps) || operator.HTTPStatus(err) != http.StatusConflict {
		t.Errorf("a further rotation: %v", err)
	}
}

// unsealed is sealing without trouble.
type unsealed struct{}

func (unsealed) Status(context.Context, store.Secrets) (sealing.Status, error) {
	return sealing.Status{Ready: true}, nil
}
