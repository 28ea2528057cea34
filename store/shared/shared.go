// Package shared opens each store once for all that use it: configurations that name
// the same store, and requests that outlive their configuration.
package shared

import (
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// pool holds the open stores.
var pool = caddy.NewUsagePool()

// Ref is one use of an open store. The store closes with its last Ref.
type Ref struct {
	store.Store
	resource string
	closed   <-chan struct{}
	release  sync.Once
}

// Acquire opens the store or takes a further reference to it.
func Acquire(o store.Opener) (*Ref, error) {
	resource := o.Resource()
	v, _, err := pool.LoadOrNew(resource, func() (caddy.Destructor, error) {
		s, err := o.Open()
		if err != nil {
			return nil, err
		}
		return pooled{s, make(chan struct{})}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	p := v.(pooled)
	return &Ref{Store: p.Closer, resource: resource, closed: p.closed}, nil
}

// Release gives the reference up. It is idempotent, so that Cleanup may call it
// however far Start came.
func (r *Ref) Release() error {
	if r == nil {
		return nil
	}
	var err error
	r.release.Do(func() { _, err = pool.Delete(r.resource) })
	return err
}

// Closed returns a channel that is closed when the store is, after its last Ref
// was released.
func (r *Ref) Closed() <-chan struct{} {
	if r == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return r.closed
}

// pooled makes an open store a caddy.Destructor.
type pooled struct {
	store.Closer
	closed chan struct{}
}

// Destruct implements caddy.Destructor. It closes the store.
func (p pooled) Destruct() error {
	defer close(p.closed)
	return p.Close()
}
