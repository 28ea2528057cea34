package replicatewebhook

import "time"

// SetClock gives a handler that is not provisioned yet a clock of the test's.
func (e *Edge) SetClock(now func() time.Time) { e.now = now }
