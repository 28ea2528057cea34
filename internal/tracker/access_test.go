package tracker

import (
	"errors"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

func TestAccessIsCheckedWhereThePredictionIs(t *testing.T) {
	w := newWorld(t, nil)
	c := &Capture{API: up, Caller: client, URL: hook, Collection: Trainings}
	if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); err != nil {
		t.Fatal(err)
	}
	w.api.set("/v1/trainings/p", body("p", "processing"))
	if err := w.CheckAccess(t.Context(), up, headers("Authorization", "a"), "p"); err != nil {
		t.Error(err)
	}
	s, err := w.Fetch(t.Context(), up, headers("Authorization", "a"), "p", nil)
	if err != nil || s.Status != "processing" {
		t.Errorf("%+v, %v", s, err)
	}
	w.api.set("/v1/predictions/q", body("q", "processing"))
	if err := w.CheckAccess(t.Context(), up, headers("Authorization", "a"), "q"); err != nil {
		t.Errorf("one that is not tracked: %v", err)
	}
	if err := w.CheckAccess(t.Context(), upstream.API{}, headers(), "p"); !errors.Is(err, upstream.ErrNoAPI) {
		t.Errorf("without an API: %v", err)
	}
	w.conf.Acquire = func() (*shared.Ref, error) { return nil, store.ErrUnavailable }
	if err := w.CheckAccess(t.Context(), up, headers(), "p"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}
