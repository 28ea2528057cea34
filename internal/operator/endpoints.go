package operator

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Endpoints lists the endpoints that this process has delivered to lately.
type Endpoints struct {
	Results []delivery.EndpointStatus `json:"results"`
}

// Endpoints lists the endpoints, those whose breaker is not closed first.
func (s *Service) Endpoints() Endpoints {
	out := Endpoints{Results: []delivery.EndpointStatus{}}
	if e := s.conf.Engine(); e != nil {
		out.Results = append(out.Results, e.Endpoints()...)
	}
	for i := range out.Results {
		r := &out.Results[i]
		utc(&r.Since, &r.Until)
		for i := range r.URLs {
			utc(&r.URLs[i].Since, &r.URLs[i].Until)
		}
	}
	return out
}

// utc converts times that are set.
func utc(times ...*time.Time) {
	for _, t := range times {
		if !t.IsZero() {
			*t = t.UTC()
		}
	}
}

// Reset is an endpoint whose breaker was closed.
type Reset struct {
	Endpoint string `json:"endpoint"`
}

// ResetEndpoint closes an endpoint's breaker, so that its deliveries go on at
// once. The error is an *InvalidError or ErrNotFound.
func (s *Service) ResetEndpoint(name string) (Reset, error) {
	name, err := endpoint(name)
	if err == nil && name == "" {
		err = invalid("endpoint", "is missing: name one of the endpoints listed")
	}
	if err != nil {
		return Reset{}, err
	}
	e := s.conf.Engine()
	if e == nil || !e.Reset(name) {
		return Reset{}, ErrNotFound
	}
	return Reset{Endpoint: name}, nil
}

// Secret is the signing secret of a client's webhooks. It is for operators' eyes and for
// no log or cache.
type Secret struct {
	// Signing is per_client or shared.
	Signing string `json:"signing"`
	// Client whose secret it is, empty for the shared one.
	Client string `json:"client"`
	Secret string `json:"secret"`
}

// Secret returns the secret of a client, as predictions name it, or the shared
// one, for which no client is named. The error is an *InvalidError, ErrNotFound
// for a client without predictions, ErrUnavailable, or that of a sealing key
// that does not fit.
func (s *Service) Secret(ctx context.Context, client string) (Secret, error) {
	out := Secret{Signing: "shared", Client: client}
	if s.conf.Keys.PerClient() {
		out.Signing = "per_client"
		if client == "" {
			return Secret{}, invalid("client", "is missing: each client has a secret of its own, name the client of a prediction")
		}
	} else if client != "" {
		return Secret{}, invalid("client", "is named, but all clients share one secret: leave it out")
	}
	if client != "" {
		if err := s.use(func(o store.Store) error { return findClient(ctx, o, client) }); err != nil {
			return Secret{}, err
		}
	}
	var err error
	if out.Secret, err = s.conf.Keys.SigningSecret(ctx, client); err != nil {
		return Secret{}, err
	}
	return out, nil
}

// findClient returns ErrNotFound unless the store holds a prediction of the
// client, or it is that of notices. A secret can be derived for any name, and one for a misspelled name
// verifies nothing.
func findClient(ctx context.Context, o store.Store, client string) error {
	if client == delivery.NoticeClient {
		return nil
	}
	for f := (store.PredictionFilter{Limit: MaxLimit}); ; {
		rows, next, err := o.ListPredictions(ctx, f)
		if err != nil {
			return err
		}
		for i := range rows {
			if rows[i].Client == client {
				return nil
			}
		}
		if next == 0 {
			return ErrNotFound
		}
		f.Before = next
	}
}
