package predictions

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// pageSize is the rows on one page of a delivery log.
const pageSize = 100

// logPage is a page of a delivery log, as the API pages its own lists.
type logPage struct {
	// Next and Previous are the URLs of the pages with older and newer
	// rows.
	Next     *string  `json:"next"`
	Previous *string  `json:"previous"`
	Results  []logRow `json:"results"`
}

// logRow is the webhook guide's WebhookDeliveryLog.
type logRow struct {
	ID    string `json:"id"`
	Event string `json:"event"`
	URL   string `json:"url"`
	// Status is the HTTP status, 0 when there was no response.
	Status int `json:"status"`
	// Attempt counts from 1.
	Attempt   int    `json:"attempt"`
	Timestamp string `json:"timestamp"`
	Response  string `json:"response,omitempty"`
	Error     string `json:"error,omitempty"`
}

func rowOf(a *store.Attempt) logRow {
	row := logRow{
		ID:        strconv.FormatInt(a.ID, 10),
		Event:     a.Event.Name(),
		URL:       a.URL,
		Status:    a.Status,
		Attempt:   a.Number,
		Timestamp: prediction.FormatTime(a.At),
		Response:  a.Response,
		Error:     a.Error,
	}
	if a.Exception {
		// Responses from the operator's own network are not for the client.
		row.Response = ""
	}
	return row
}

// deliveries handles a request for a page of a prediction's delivery log.
func (m *manager) deliveries(r *http.Request, rt route) (reply, error) {
	at, err := parseCursor(r.URL.Query().Get("cursor"))
	if err != nil {
		return reply{}, unprocessable("cursor is not one that was given out")
	}
	p, err := m.find(r, rt.id)
	if err != nil {
		return reply{}, err
	}
	rows, err := m.tracker.Log(r.Context(), p, at.before(), pageSize+1)
	if err != nil {
		return reply{}, err
	}
	page := logPage{Results: make([]logRow, 0, len(rows))}
	if len(rows) > pageSize {
		rows = rows[:pageSize]
		page.Next = pageURL(r, at.older(rows[pageSize-1].ID))
	}
	if len(at) > 0 {
		page.Previous = pageURL(r, at[:len(at)-1])
	}
	for i := range rows {
		page.Results = append(page.Results, rowOf(&rows[i]))
	}
	body, err := json.Marshal(page)
	return reply{http.StatusOK, append(body, '\n')}, err
}

// cursor is the position of a page: the rows before which this page and the ones
// between it and the newest begin. The store reads from newer to older only, so the
// cursor itself holds the positions of the newer pages.
type cursor []int64

// maxCursor bounds the way back. Beyond it the previous page of the oldest one
// remembered is the newest.
const maxCursor = 50

// before returns the row before which the page begins, 0 for the newest page.
func (c cursor) before() int64 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1]
}

func (c cursor) older(row int64) cursor {
	next := append(c[:len(c):len(c)], row)
	return next[max(0, len(next)-maxCursor):]
}

func (c cursor) String() string {
	parts := make([]string, len(c))
	for i, row := range c {
		parts[i] = strconv.FormatInt(row, 10)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, ".")))
}

func parseCursor(s string) (cursor, error) {
	if s == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, err
	}
	parts := strings.SplitN(string(text), ".", maxCursor+1)
	if len(parts) > maxCursor {
		return nil, strconv.ErrRange
	}
	c := make(cursor, len(parts))
	for i, part := range parts {
		if c[i], err = parseRow(part); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// pageURL returns the request's own URL with another cursor. It is absolute, since
// clients of the API take it as it is.
func pageURL(r *http.Request, c cursor) *string {
	u := url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		u.Path = original.URL.Path
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	if r.TLS != nil || trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		u.Scheme = "https"
	}
	if len(c) > 0 {
		u.RawQuery = "cursor=" + c.String()
	}
	s := u.String()
	return &s
}
