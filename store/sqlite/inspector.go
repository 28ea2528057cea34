package sqlite

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// ListDeliveries implements store.Inspector.
func (h *history) ListDeliveries(ctx context.Context, f store.DeliveryFilter) ([]store.DeliveryRow, int64, error) {
	w := scan{number: "t.n", from: "deliveries t", since: f.Since, end: ledger.FirstEvent}
	if f.Inbound {
		w.first, w.end = ledger.FirstEvent, 0
	}
	and := func(condition string, args ...any) {
		if w.where != "" {
			w.where += " AND "
		}
		w.where += condition
		w.args = append(w.args, args...)
	}
	if f.Prediction != "" {
		refs, err := h.refs(ctx, f.Prediction)
		if f.Inbound {
			refs, err = h.s.inbox.orderNumbers(f.Scope, f.Prediction), nil
			w.join = " JOIN inbound b ON b.n = t.n"
			and("b.prediction = ?", f.Prediction)
		}
		if err != nil || len(refs) == 0 {
			return nil, 0, h.s.readError(err)
		}
		w.whole, w.from = true, "deliveries t INDEXED BY deliveries_prediction"
		and("t.prediction IN ("+marks(len(refs))+")", refs...)
	}
	if f.State != nil {
		switch state := *f.State; {
		case w.whole || state == store.DeliveryDelivered:
			and("t.state = ?", state)
		case state == store.DeliveryPending:
			w.from, w.index = "deliveries t INDEXED BY deliveries_pending", "t.state = 0"
		default:
			w.from, w.index = "deliveries t INDEXED BY deliveries_unsent", "t.state >= 2 AND t.state = "+strconv.Itoa(int(state))
		}
	}
	if f.Inbound && f.Scope != "" {
		b := h.s.inbox.boxes.find(f.Scope)
		if b == nil {
			return nil, 0, h.s.closed()
		}
		and("t.scope = ?", b.id)
	}
	if f.Inbound && f.Name != "" {
		and("t.name = ?", f.Name)
	}
	if !f.Inbound && f.Event != 0 && f.Event != event.All {
		and("t.event & ? <> 0", f.Event)
	}
	if !f.Inbound && f.Endpoint != "" {
		// The beginning of the URL excludes most of the others. SQLite runs a
		// cross join in the order in which it is written.
		w.join = " CROSS JOIN predictions p ON p.ref = t.prediction"
		and("p.url LIKE ? ESCAPE '\\'", likeEscape.Replace(urlStart(f.Endpoint))+"%")
		w.text, w.keep = "p.url", func(url string) bool { return store.EndpointOf(url) == f.Endpoint }
	}
	if !f.Inbound && f.Client != "" {
		w.join = " CROSS JOIN predictions p ON p.ref = t.prediction"
		and("instr(p.client, ?) > 0", f.Client)
	}
	if f.Class != nil {
		// Most rows are delivered ones, whose attempts need no look.
		delivered := "t.state <> 1 AND "
		if *f.Class == 2 {
			delivered = "t.state = 1 OR "
		}
		and("("+delivered+"(SELECT status / 100 FROM attempts WHERE id = ("+lastAttempt+" t.prediction AND delivery = t.n ORDER BY id DESC LIMIT 1)) = ?)", *f.Class)
	}
	numbers, next, err := w.run(ctx, h.s.db, f.Before, f.Limit)
	if err != nil || len(numbers) == 0 {
		return nil, next, h.s.readError(err)
	}
	list := h.deliveryRows
	if f.Inbound {
		list = h.eventRows
	}
	rows, err := list(ctx, numbers, false)
	return rows, next, h.s.readError(err)
}

// urlStart returns the text that the URLs of an endpoint begin with, up to the
// first character that is not ASCII: SQLite folds the case of ASCII only.
func urlStart(endpoint string) string {
	start := strings.TrimSuffix(strings.TrimSuffix(endpoint, ":443"), ":80")
	if i := strings.IndexFunc(start, func(r rune) bool { return r > unicode.MaxASCII }); i >= 0 {
		start = start[:i]
	}
	return start
}

var likeEscape = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// lastAttempt begins the query for the ID of a delivery's last attempt, up to its
// prediction's number.
const lastAttempt = "SELECT id FROM attempts INDEXED BY attempts_prediction WHERE prediction ="

// lastColumns and joinLast are the columns of the last attempt of a delivery d, which
// last reads.
const (
	lastColumns = "a.id, a.url, a.status, a.number, a.at, a.took, a.error, a.exception"
	joinLast    = " LEFT JOIN attempts a ON a.id = (" + lastAttempt + " d.prediction AND delivery = d.n ORDER BY id DESC LIMIT 1)"
)

// last is the last attempt of a delivery, as lastColumns selects it.
type last struct {
	id, status, number, at, took sql.NullInt64
	url, err                     sql.NullString
	exception                    sql.NullBool
}

func (l *last) targets() []any {
	return []any{&l.id, &l.url, &l.status, &l.number, &l.at, &l.took, &l.err, &l.exception}
}

// fill sets the last attempt of a row.
func (l *last) fill(r *store.DeliveryRow) {
	if l.id.Valid {
		r.Last = &store.Attempt{
			ID: l.id.Int64, Delivery: r.ID, Event: r.Event, URL: l.url.String, Status: int(l.status.Int64), Number: int(l.number.Int64),
			At: timeOf(l.at.Int64), Took: time.Duration(l.took.Int64), Error: l.err.String, Exception: l.exception.Bool,
		}
	}
}

// marks returns n placeholders.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// refs returns the predictions with an ID, of which each API may have one.
func (h *history) refs(ctx context.Context, id string) (refs []any, err error) {
	low := ledger.IDKey(id)
	high := append(ledger.IDKey(id), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	rows, err := h.s.db.QueryContext(ctx, "SELECT ref FROM predictions WHERE key BETWEEN ? AND ? ORDER BY ref DESC", low, high)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var ref int64
		if err := rows.Scan(&ref); err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, rows.Err()
}

// deliveryRows reads deliveries by their numbers, newest first, and their payloads
// if whole is set.
func (h *history) deliveryRows(ctx context.Context, numbers []int64, whole bool) ([]store.DeliveryRow, error) {
	payload := "x''"
	if whole {
		payload = "(SELECT body FROM payloads WHERE n = " + payloadNumber + ")"
	}
	args := make([]any, len(numbers))
	for i, n := range numbers {
		args[i] = n
	}
	rows, err := h.s.db.QueryContext(ctx, `SELECT d.n, d.nonce, d.prediction, d.event, d.redelivery, d.state, d.attempts, d.due, d.created, p.id, p.client, p.url, p.traceparent, `+payload+`, `+lastColumns+`
		FROM deliveries d JOIN predictions p ON p.ref = d.prediction`+joinLast+` WHERE d.n IN (`+marks(len(numbers))+`) ORDER BY d.n DESC`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make([]store.DeliveryRow, 0, len(numbers))
	for rows.Next() {
		var r store.DeliveryRow
		var nonce, due, created int64
		var l last
		if err := rows.Scan(append([]any{&r.N, &nonce, &r.Prediction, &r.Event, &r.Redelivery, &r.State, &r.Attempts, &due, &created,
			&r.PredictionID, &r.Client, &r.URL, &r.Traceparent, &r.Payload}, l.targets()...)...); err != nil {
			return nil, err
		}
		r.ID, r.Due, r.CreatedAt = ledger.DeliveryID(r.N, nonce), timeOf(due), timeOf(created)
		l.fill(&r)
		if len(r.Payload) == 0 {
			r.Payload = nil
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// eventRows is deliveryRows for inbound events.
func (h *history) eventRows(ctx context.Context, numbers []int64, whole bool) ([]store.DeliveryRow, error) {
	content := "NULL, NULL"
	if whole {
		content = "b.head, b.body"
	}
	args := make([]any, len(numbers))
	for i, n := range numbers {
		args[i] = n
	}
	rows, err := h.s.db.QueryContext(ctx, "SELECT "+eventColumns+", d.state, d.attempts, d.due, b.body IS NOT NULL AND NOT b.recorded, "+content+", "+lastColumns+
		" FROM deliveries d JOIN inbound b ON b.n = d.n"+joinLast+" WHERE d.n IN ("+marks(len(numbers))+") ORDER BY d.n DESC", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make([]store.DeliveryRow, 0, len(numbers))
	for rows.Next() {
		var r store.DeliveryRow
		var due int64
		var head, body []byte
		var l last
		d, err := h.s.scanEvent(rows, append([]any{&r.State, &r.Attempts, &due, &r.Replayable, &head, &body}, l.targets()...)...)
		if err != nil {
			return nil, err
		}
		d.Attempts = r.Attempts
		d.Inbound.Head, d.Inbound.Body, d.Payload = head, body, body
		r.Delivery, r.Due, r.Claimed = *d, timeOf(due), h.s.claimed(d.N) != nil
		l.fill(&r)
		out = append(out, r)
	}
	return out, rows.Err()
}

// FindDelivery implements store.Inspector.
func (h *history) FindDelivery(ctx context.Context, id string) (store.DeliveryRow, []store.Attempt, error) {
	n, _, ok := ledger.ParseID(id)
	if !ok {
		return store.DeliveryRow{}, nil, store.ErrNotFound
	}
	find := h.deliveryRows
	if n >= ledger.FirstEvent {
		find = h.eventRows
	}
	rows, err := find(ctx, []int64{n}, true)
	if err != nil {
		return store.DeliveryRow{}, nil, h.s.readError(err)
	}
	if len(rows) == 0 || rows[0].ID != id {
		return store.DeliveryRow{}, nil, store.ErrNotFound
	}
	attempts, err := h.attempts(ctx, "a.prediction = ? AND a.delivery = ? ORDER BY a.id", rows[0].Prediction, n)
	return rows[0], attempts, err
}

// RedeliverDelivery implements store.Inspector.
func (h *history) RedeliverDelivery(ctx context.Context, id string) (string, error) {
	n, nonce, ok := ledger.ParseDeliveryID(id)
	if !ok {
		return "", store.ErrNotFound
	}
	return h.redeliver(ctx, "d.n = ? AND d.nonce = ?", n, nonce)
}

// ListPredictions implements store.Inspector.
func (h *history) ListPredictions(ctx context.Context, f store.PredictionFilter) ([]store.Prediction, int64, error) {
	w := scan{number: "t.ref", from: "predictions t"}
	if f.ID != "" {
		refs, err := h.refs(ctx, f.ID)
		if err != nil || len(refs) == 0 {
			return nil, 0, h.s.readError(err)
		}
		w.whole, w.where, w.args = true, "ref IN ("+marks(len(refs))+")", refs
	} else {
		w.where = "key IS NOT NULL"
	}
	if f.Webhook != nil {
		switch status := int(*f.Webhook); {
		case w.whole || status < int(store.WebhookFailed):
			w.where += " AND webhook = ?"
			w.args = append(w.args, status)
		default:
			w.from, w.index = "predictions t INDEXED BY predictions_unsent", "t.webhook >= 2 AND t.webhook = "+strconv.Itoa(status)
		}
	}
	refs, next, err := w.run(ctx, h.s.db, f.Before, f.Limit)
	if err != nil || len(refs) == 0 {
		return nil, next, h.s.readError(err)
	}
	out, err := h.predictionRows(ctx, refs)
	return out, next, h.s.readError(err)
}

// listedColumns are predictionColumns without those that may be large or are
// secret.
var listedColumns = strings.NewReplacer("credential", "NULL", "token", "NULL", "body", "NULL").Replace(predictionColumns)

func (h *history) predictionRows(ctx context.Context, refs []int64) ([]store.Prediction, error) {
	args := make([]any, len(refs))
	for i, ref := range refs {
		args[i] = ref
	}
	rows, err := h.s.db.QueryContext(ctx, "SELECT "+listedColumns+" FROM predictions WHERE ref IN ("+marks(len(refs))+") ORDER BY ref DESC", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make([]store.Prediction, 0, len(refs))
	for rows.Next() {
		p, err := scanPrediction(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
