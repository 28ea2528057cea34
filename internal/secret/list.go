package secret

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// List holds the parsed secrets of one option. A secret that is read from a
// file is replaced when the file changes. It is safe for concurrent use.
type List[T any] struct {
	mu     sync.Mutex // held while values is replaced
	values atomic.Pointer[[]T]
}

// Values returns the secrets in use, in the order of the configuration. The
// slice must not be changed.
func (l *List[T]) Values() []T {
	if p := l.values.Load(); p != nil {
		return *p
	}
	return nil
}

func (l *List[T]) set(i int, v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := slices.Clone(l.Values())
	values[i] = v
	l.values.Store(&values)
}

// NewList reads the secrets of an option, and has w read those in files again.
// parse turns a value into what the option holds; its errors must not quote the
// value. Errors name the option and the number of the secret.
func NewList[T any](w *Watcher, option string, configured []string, parse func(value string) (T, error)) (*List[T], error) {
	l := new(List[T])
	values := make([]T, len(configured))
	l.values.Store(&values)
	for i, c := range configured {
		name := fmt.Sprintf("%s %d", option, i+1)
		err := w.Use(option, name+" of replicate_webhook", c, func(value string) error {
			v, err := parse(value)
			if err == nil {
				l.set(i, v)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return l, nil
}
