package operator

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Status is the state of the plugin.
type Status struct {
	// API is the version of these documents.
	API int `json:"api"`
	// Version of the plugin.
	Version string `json:"version"`
	// Since is the time at which the configuration was loaded.
	Since time.Time   `json:"since"`
	Store StoreStatus `json:"store"`
	// Deliveries held, by state.
	Deliveries DeliveryCounts `json:"deliveries"`
	// OldestPending is the time at which the oldest pending delivery was
	// committed.
	OldestPending time.Time `json:"oldest_pending,omitzero"`
	// TrackedPredictions counts the predictions without a terminal event.
	TrackedPredictions int `json:"tracked_predictions"`
	// DedupEntries counts the accepted events that the edge has not forgotten.
	DedupEntries int `json:"dedup_entries"`
	// Attempts is the load of this process.
	Attempts delivery.Status `json:"attempts"`
	// EndpointsOpen are the endpoints whose breaker is open in this process.
	EndpointsOpen int `json:"endpoints_open"`
	// Inboxes are those of the edge, by scope.
	Inboxes []Inbox `json:"inboxes"`
	// Polls made by this configuration.
	Polls uint64 `json:"polls"`
	// Unreadable counts the sealed values that this configuration could not
	// open.
	Unreadable uint64 `json:"unreadable"`
	// Sealing is the state of sealed values.
	Sealing sealing.Status `json:"sealing"`
}

// StoreStatus is the state of the store.
type StoreStatus struct {
	// Kind is sqlite or postgres.
	Kind string `json:"kind"`
	// Ready: commits can be made now.
	Ready bool `json:"ready"`
	// Error says why not.
	Error string `json:"error,omitempty"`
	// ClockAhead is the time by which the clock of this process is ahead of the
	// database's, in milliseconds, with store postgres.
	ClockAhead int64 `json:"clock_ahead_ms,omitempty"`
	// ClockWrong: that is more than half the tolerance of a handler, and this
	// process forgets nothing.
	ClockWrong bool `json:"clock_wrong,omitempty"`
}

// DeliveryCounts are numbers of deliveries by state.
type DeliveryCounts struct {
	Pending    int `json:"pending"`
	Delivered  int `json:"delivered"`
	Failed     int `json:"failed"`
	Superseded int `json:"superseded"`
	Canceled   int `json:"canceled"`
}

// Of returns the count of a state.
func (c *DeliveryCounts) Of(s store.DeliveryState) int {
	return [...]int{c.Pending, c.Delivered, c.Failed, c.Superseded, c.Canceled}[s]
}

// Status returns the status, also while the store is unavailable.
func (s *Service) Status(ctx context.Context) (Status, error) {
	polls := s.conf.Poller.Stats()
	out := Status{
		API: APIVersion, Version: s.conf.Version, Since: s.since.UTC(),
		Store: StoreStatus{Kind: s.conf.Store}, Inboxes: []Inbox{},
		Polls: polls.Polls, Unreadable: polls.Unreadable + s.conf.Keys.Unreadable(),
	}
	if e := s.conf.Engine(); e != nil {
		out.Attempts = e.Status()
		for _, p := range e.Endpoints() {
			if p.State != delivery.Closed {
				out.EndpointsOpen++
			}
		}
	}
	out.Sealing, _ = s.conf.Sealing.Status(ctx, nil) // what can be told without a store
	var c store.Counts
	err := s.use(func(o store.Store) (err error) {
		if clocked, ok := o.(store.Clocked); ok {
			ahead, wrong := clocked.ClockOffset()
			out.Store.ClockAhead, out.Store.ClockWrong = ahead.Milliseconds(), wrong
		}
		if err := o.Ready(); err != nil {
			return err
		}
		if c, err = o.Counts(ctx); err != nil {
			return err
		}
		if out.Inboxes, err = s.inboxes(ctx, o); err != nil {
			return err
		}
		out.Sealing, err = s.conf.Sealing.Status(ctx, o)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		out.Store.Error = err.Error()
		return out, nil
	}
	out.Store.Ready = true
	d := c.Deliveries
	out.Deliveries = DeliveryCounts{
		Pending: d[store.DeliveryPending], Delivered: d[store.DeliveryDelivered], Failed: d[store.DeliveryFailed],
		Superseded: d[store.DeliverySuperseded], Canceled: d[store.DeliveryCanceled],
	}
	out.OldestPending, out.TrackedPredictions, out.DedupEntries = c.OldestPending, c.Tracked, c.Entries
	return out, nil
}

// Counts returns the row counts of the store.
func (s *Service) Counts(ctx context.Context) (c store.Counts, err error) {
	err = s.use(func(o store.Store) error {
		c, err = o.Counts(ctx)
		return err
	})
	return c, err
}
