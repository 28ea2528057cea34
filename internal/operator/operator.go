// Package operator implements what operators can see and do, in typed documents that
// are the same in the admin API, on the command line and on the dashboard. Of
// HTTP it knows no more than which status fits an error.
package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// APIVersion is the version of the documents. It grows when one changes in a
// way that a reader of the version before would misread.
const APIVersion = 1

// Errors of the methods of Service, beside *InvalidError.
var (
	// ErrNotFound: there is no such prediction, delivery, endpoint, event or
	// inbox.
	ErrNotFound = store.ErrNotFound
	// ErrDisabled: the prediction's webhook is disabled.
	ErrDisabled = store.ErrDisabled
	// ErrUnavailable: the store is unavailable.
	ErrUnavailable = store.ErrUnavailable
	// ErrEnded: the event has ended.
	ErrEnded = store.ErrEnded
	// ErrWaiting: the event is waiting or running.
	ErrWaiting = store.ErrWaiting
	// ErrNoBody: the event can't be forwarded again.
	ErrNoBody = store.ErrNoBody
	// ErrOverlaps: too many rotations of a signing key overlap.
	ErrOverlaps = store.ErrOverlaps
)

// InvalidError is the error of a query with an option that is not valid.
type InvalidError struct {
	Option  string
	Problem string
}

func (e *InvalidError) Error() string { return e.Option + " " + e.Problem }

// HTTPStatus returns the status for an error of Service, 500 for an error that
// Service does not document.
func HTTPStatus(err error) int {
	var refused *InvalidError
	switch {
	case errors.As(err, &refused):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrDisabled), errors.Is(err, ErrEnded), errors.Is(err, ErrWaiting), errors.Is(err, ErrNoBody), errors.Is(err, ErrOverlaps):
		return http.StatusConflict
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func invalid(option, format string, args ...any) error {
	return &InvalidError{Option: option, Problem: fmt.Sprintf(format, args...)}
}

// Engine is the part of a delivery engine that the service needs.
type Engine interface {
	Status() delivery.Status
	Endpoints() []delivery.EndpointStatus
	Inboxes() []delivery.EndpointStatus
	Reset(endpoint string) bool
	Blocker(*store.Delivery) *delivery.Blocker
}

// Poller is the part of a poller that the service needs.
type Poller interface {
	Stats() poller.Stats
}

// Keys is the part of the signing keys that the service needs.
type Keys interface {
	PerClient() bool
	SigningSecret(ctx context.Context, client string) (string, error)
	Unreadable() uint64
}

// Sealing is the part of a keeper of sealed values that the service needs.
type Sealing interface {
	Status(ctx context.Context, s store.Secrets) (sealing.Status, error)
}

// Config holds the parts that a Service works on. All are required but Now.
type Config struct {
	// Version is the plugin's.
	Version string
	// Store is the kind of store, such as sqlite.
	Store string
	// Acquire takes a reference to the store.
	Acquire func() (*shared.Ref, error)
	// Engine returns the running engine, nil if there is none.
	Engine func() Engine
	// Poller polls predictions.
	Poller Poller
	// Keys are the secrets that sign deliveries.
	Keys Keys
	// Sealing returns the state of sealed values.
	Sealing Sealing
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Service serves operators. Its methods are safe for concurrent use, and none
// is on a request's path.
type Service struct {
	conf  Config
	since time.Time
}

// New returns a service.
func New(conf Config) *Service {
	if conf.Now == nil {
		conf.Now = time.Now
	}
	return &Service{conf: conf, since: conf.Now()}
}

// use runs f with a reference to the store.
func (s *Service) use(f func(store.Store) error) error {
	ref, err := s.conf.Acquire()
	if err != nil {
		return err
	}
	defer func() { _ = ref.Release() }()
	return f(ref.Store)
}
