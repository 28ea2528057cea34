package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
)

// CheckPrediction returns nil if the sender of headers h may see a prediction,
// which the API has at path, such as /predictions/{id}: it must respond with
// exactly 200 and a JSON object of that id.
//
// Errors: *Refusal, ErrFailed, ErrNoAPI.
func (c *Client) CheckPrediction(ctx context.Context, api API, h http.Header, path, id string) error {
	resp, err := c.getPrediction(ctx, api, h, path, id)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The id alone is needed, of a prediction that may be of any size.
	scan := prediction.NewScanner()
	_, err = io.Copy(scan, io.LimitReader(resp.Body, MaxPrediction))
	if err == nil && (!scan.Complete() || scan.ID() != id) {
		err = prediction.ErrUnexpected
	}
	if err != nil {
		return &Error{API: api.URL, Path: path, Status: resp.StatusCode, Err: err}
	}
	return nil
}

// FetchPrediction is CheckPrediction that returns the prediction too. take is asked
// for room for the bytes of the response as they come; nil: there is room.
//
// Errors: those of CheckPrediction, ErrNoRoom.
func (c *Client) FetchPrediction(ctx context.Context, api API, h http.Header, path, id string, take func(bytes int) bool) (*prediction.Snapshot, error) {
	resp, err := c.getPrediction(ctx, api, h, path, id)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := ReadAll(&metered{r: resp.Body, take: take}, MaxPrediction)
	if errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	var s *prediction.Snapshot
	if err == nil {
		s, err = prediction.ParseID(data, id)
	}
	if err != nil {
		return nil, &Error{API: api.URL, Path: path, Status: resp.StatusCode, Err: err}
	}
	return s, nil
}

func (c *Client) getPrediction(ctx context.Context, api API, h http.Header, path, id string) (*http.Response, error) {
	if api.URL == "" {
		return nil, ErrNoAPI
	}
	caller, err := callerOf(h)
	if err != nil {
		return nil, err
	}
	if !prediction.ValidID(id) {
		return nil, problem(http.StatusNotFound, "the id is malformed")
	}
	return c.getFor(ctx, caller, api.URL, path)
}

// metered asks for room for what is read.
type metered struct {
	r    io.Reader
	take func(bytes int) bool
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.take != nil && n > 0 && !m.take(n) {
		return 0, ErrNoRoom
	}
	return n, err
}
