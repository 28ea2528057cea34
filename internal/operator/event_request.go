package operator

import (
	"context"
	"net/http"
	"strconv"

	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// ForwardRequest is the request that an app gets for an event. It has the headers
// that verify, so that it is for operators at the admin endpoint alone: the
// dashboard does not show it.
type ForwardRequest struct {
	ID     string `json:"id"`
	Method string `json:"method"`
	// URI is the request URI after the handlers before the edge.
	URI    string      `json:"uri"`
	Host   string      `json:"host"`
	Header http.Header `json:"header"`
	// Body is what was signed. In JSON it is base64.
	Body []byte `json:"body"`
}

// ForwardRequest returns the request that the app of an event gets, with the
// signatures that it came with. The error is ErrNotFound, ErrNoBody, ErrUnavailable,
// or that of a stored request that can't be read.
func (s *Service) ForwardRequest(ctx context.Context, id string) (out ForwardRequest, err error) {
	var row store.DeliveryRow
	err = s.use(func(o store.Store) error {
		row, _, err = findEvent(ctx, o, id)
		return err
	})
	if err != nil {
		return out, err
	}
	if row.Inbound.Head == nil {
		return out, ErrNoBody
	}
	head, err := inbox.DecodeHead(row.Inbound.Head)
	if err != nil {
		return out, err
	}
	r := &http.Request{Header: head.Header}
	edge.Restore(&head, row.Inbound.Body).Prepare(r)
	r.Header.Set("X-Replicate-Event-Id", row.ID)
	r.Header.Set("X-Replicate-Attempt", strconv.Itoa(row.Attempts+1))
	r.Header.Set("X-Replicate-Replay", "true")
	return ForwardRequest{ID: row.ID, Method: head.Method, URI: head.URI, Host: head.Host, Header: r.Header, Body: row.Inbound.Body}, nil
}
