package delivery

import "sync"

// Apps counts the events that are with the apps of inboxes. Engines that share one
// keep to the concurrency of an inbox together: while a configuration is replaced,
// attempts of the old one are still under way. The zero value is ready to use.
type Apps struct {
	mu sync.Mutex
	// events are those with an app, or offered to be claimed for it, by scope.
	events map[string]int
	// engines are those that run.
	engines map[*Engine]struct{}
}

// count returns the number of a scope's events that are with its app.
func (a *Apps) count(scope string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events[scope]
}

// take counts up to n more events as long as there are no more than limit. It
// returns how many it has counted.
func (a *Apps) take(scope string, n, limit int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n = max(0, min(n, limit-a.events[scope]))
	put(&a.events, scope, a.events[scope]+n)
	return n
}

// give counts n events less.
func (a *Apps) give(scope string, n int) {
	if n == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events[scope] -= n; a.events[scope] <= 0 {
		delete(a.events, scope)
	}
}

// run adds an engine that runs.
func (a *Apps) run(e *Engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	put(&a.engines, e, struct{}{})
}

// ended removes an engine.
func (a *Apps) ended(e *Engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.engines, e)
}

// others returns the other engines that run. The caller must not hold an engine's
// mutex when it calls them.
func (a *Apps) others(e *Engine) (others []*Engine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for other := range a.engines {
		if other != e {
			others = append(others, other)
		}
	}
	return others
}
