package store

import (
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// Opener is what a store module gives: where the store is and how to open it.
type Opener interface {
	// Resource names what is opened (a path, a database), never how: two
	// configurations with the same resource share one open store.
	Resource() string
	// Open opens the resource. It is called at most once at a time for a
	// resource.
	Open() (Closer, error)
}

// pool holds the open stores, shared by configurations and by requests that
// outlive theirs.
var pool = caddy.NewUsagePool()

// Ref is one use of an open store. The store closes with its last Ref.
type Ref struct {
	Store
	resource string
	closed   <-chan struct{}
	release  sync.Once
}

// Acquire opens the store or takes a further reference to it.
func Acquire(o Opener) (*Ref, error) {
	resource := o.Resource()
	v, _, err := pool.LoadOrNew(resource, func() (caddy.Destructor, error) {
		s, err := o.Open()
		if err != nil {
			return nil, err
		}
		return pooled{s, make(chan struct{})}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	p := v.(pooled)
	return &Ref{Store: p.Closer, resource: resource, closed: p.closed}, nil
}

// Release gives the reference back. It is idempotent, so that Cleanup may
// call it however far Start came.
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

// pooled gives an open store the name under which caddy.UsagePool closes it.
type pooled struct {
	Closer
	closed chan struct{}
}

// Destruct closes the store.
func (p pooled) Destruct() error {
	defer close(p.closed)
	return p.Close()
}
