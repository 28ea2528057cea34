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
		return pooled{s}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return &Ref{Store: v.(pooled).Closer, resource: resource}, nil
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

// pooled gives an open store the name under which caddy.UsagePool closes it.
type pooled struct{ Closer }

// Destruct closes the store.
func (p pooled) Destruct() error { return p.Close() }
