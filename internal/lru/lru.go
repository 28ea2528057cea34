// Package lru is a cache of bounded size that evicts the entry that was least
// recently used.
package lru

import (
	"container/list"
	"sync"
	"time"
)

// Cache holds up to a fixed number of entries. It is safe for concurrent use and
// runs no goroutine.
type Cache[K comparable, V any] struct {
	size     int
	lifetime time.Duration

	mu      sync.Mutex
	order   *list.List // of *entry[K, V], the most recently used first
	entries map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time // zero: never
}

// New returns an empty cache of up to size entries. An entry expires a lifetime
// after it was added; a lifetime of 0 is no limit.
func New[K comparable, V any](size int, lifetime time.Duration) *Cache[K, V] {
	return &Cache[K, V]{size: size, lifetime: lifetime, order: list.New(), entries: make(map[K]*list.Element)}
}

// Get returns the value of a key, and whether the cache holds one that has not
// expired.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.get(key)
}

// Add sets the value of a key, which lives for a lifetime from now.
func (c *Cache[K, V]) Add(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(key, value)
}

// GetOrAdd returns the value of a key, and adds the value that create returns if
// there is none. create must not use the cache.
func (c *Cache[K, V]) GetOrAdd(key K, create func() V) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.get(key)
	if !ok {
		value = create()
		c.add(key, value)
	}
	return value
}

// Len returns the number of entries, expired ones included.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

func (c *Cache[K, V]) get(key K) (value V, ok bool) {
	element, ok := c.entries[key]
	if !ok {
		return value, false
	}
	e := element.Value.(*entry[K, V])
	if !e.expires.IsZero() && !time.Now().Before(e.expires) {
		c.remove(element)
		return value, false
	}
	c.order.MoveToFront(element)
	return e.value, true
}

func (c *Cache[K, V]) add(key K, value V) {
	if element, ok := c.entries[key]; ok {
		c.remove(element)
	}
	if c.order.Len() >= c.size {
		c.remove(c.order.Back())
	}
	e := &entry[K, V]{key: key, value: value}
	if c.lifetime > 0 {
		e.expires = time.Now().Add(c.lifetime)
	}
	c.entries[key] = c.order.PushFront(e)
}

func (c *Cache[K, V]) remove(element *list.Element) {
	delete(c.entries, element.Value.(*entry[K, V]).key)
	c.order.Remove(element)
}
