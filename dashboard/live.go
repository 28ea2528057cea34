package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// maxStreams bounds the pages that are live at once. Beyond it they are
	// read without being live.
	maxStreams = 200
	// refreshEvery is the least time between two refreshes of a page.
	refreshEvery = 2 * time.Second
	// refreshAnyway is the time after which a page is refreshed although no
	// counter has changed: other nodes may have worked, and relative times age.
	refreshAnyway = 15 * time.Second
)

// streams are the pages that are live.
type streams struct {
	n      atomic.Int64
	closed chan struct{}
	once   sync.Once
}

func newStreams() *streams { return &streams{closed: make(chan struct{})} }

// close ends them, and those to come.
func (s *streams) close() { s.once.Do(func() { close(s.closed) }) }

// stream sends a server-sent event when there is something new to show. The
// stream ends with the server, which waits for it on a reload.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) error {
	if n := h.streams.n.Add(1); n > maxStreams {
		h.streams.n.Add(-1)
		return caddyhttp.Error(http.StatusServiceUnavailable, fmt.Errorf("%d pages are live already", maxStreams))
	}
	defer h.streams.n.Add(-1)
	flush := http.NewResponseController(w)
	// A server's write_timeout is for responses that end.
	if err := flush.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	changed := h.history.Changed()
	send := func(event string) bool {
		if _, err := fmt.Fprintf(w, "retry: 3000\nevent: %s\ndata: \n\n", event); err != nil {
			return false
		}
		return flush.Flush() == nil
	}
	if !send("hello") {
		return nil
	}
	anyway := time.NewTicker(refreshAnyway)
	defer anyway.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-h.streams.closed:
			return nil
		case <-changed:
		case <-anyway.C:
		}
		if !send("changed") {
			return nil
		}
		// What happens meanwhile closes the new channel and is sent then.
		changed = h.history.Changed()
		pause.Reset(refreshEvery)
		select {
		case <-r.Context().Done():
			return nil
		case <-h.streams.closed:
			return nil
		case <-pause.C:
		}
	}
}
