package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

const (
	// scanSpan is how many numbers one query of a list looks through.
	// Predictions, deliveries and attempts share their numbers.
	scanSpan = 10_000
	// scanTime is how long a list looks for more rows before it leaves the
	// rest to the next page.
	scanTime = 8 * time.Millisecond
	// exactCount is up to how many rows are counted. Beyond it the number is
	// the server's own estimate.
	exactCount = 100_000
)

// Counts implements store.Inspector. Large numbers of entries and of
// deliveries that succeeded are estimates.
func (h *history) Counts(ctx context.Context) (store.Counts, error) {
	var c store.Counts
	err := h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var pending, tracked int
		var oldest int64
		err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM webhook_deliveries WHERE state = 0 AND n < $1),
			(SELECT count(*) FROM webhook_predictions WHERE happened < 2 AND key IS NOT NULL),
			coalesce((SELECT created FROM webhook_deliveries WHERE state = 0 AND n < $1 ORDER BY n LIMIT 1), 0)`, int64(ledger.FirstEvent)).Scan(&pending, &tracked, &oldest)
		if err != nil {
			return err
		}
		c.Deliveries[store.DeliveryPending], c.Tracked, c.OldestPending = pending, tracked, timeOf(oldest)
		var state int16
		var n int
		rows, err := conn.Query(ctx, "SELECT state, count(*) FROM webhook_deliveries WHERE state >= 2 AND n < $1 GROUP BY state", int64(ledger.FirstEvent))
		if err != nil {
			return err
		}
		others := pending
		if _, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
			c.Deliveries[state] = n
			others += n
			return nil
		}); err != nil {
			return err
		}
		all, err := count(ctx, conn, "webhook_deliveries WHERE n < 1099511627776", "webhook_deliveries")
		if err != nil {
			return err
		}
		if all > exactCount { // an estimate, which is of events, too
			var events int
			if err := conn.QueryRow(ctx, "SELECT coalesce(sum(waiting + accepted + failed + discarded + refused), 0)::bigint FROM webhook_inbox_counts").Scan(&events); err != nil {
				return err
			}
			all = max(all-events, exactCount)
		}
		c.Deliveries[store.DeliveryDelivered] = max(all-others, 0)
		c.Entries, err = count(ctx, conn, "webhook_dedup", "webhook_dedup")
		return err
	})
	return c, err
}

// count returns the number of rows of a table, which is an estimate of all its rows
// if they are many.
func count(ctx context.Context, conn *pgx.Conn, rows, table string) (n int, err error) {
	var estimate int
	err = conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM (SELECT 1 FROM "+rows+" LIMIT $1) r), (SELECT reltuples::bigint FROM pg_class WHERE oid = $2::text::regclass)", exactCount, table).Scan(&n, &estimate)
	if n == exactCount {
		n = max(n, estimate)
	}
	return n, err
}

// scan is a walk over a table's numbers, newest first, for those of the rows
// that match. It goes span by span, so that a page with few matches costs no
// more than one with many.
type scan struct {
	number, table string
	// index is a condition that an index is for, where is what else rows
	// must match. Their arguments are args, numbered from $1.
	index, where string
	args         []any
	since        time.Time
	// from and to bound the numbers: those from from on and below to. to is
	// optional. width is how many numbers one query looks through. Default:
	// scanSpan.
	from, to, width int64
	// whole reports that the rows are few enough for one query.
	whole bool
	// text is a column whose value keep decides on.
	text string
	keep func(text string) bool
}

// and adds a condition, in which %s stands for the argument.
func (w *scan) and(condition string, arg any) {
	w.args = append(w.args, arg)
	w.where += " AND " + fmt.Sprintf(condition, fmt.Sprintf("$%d", len(w.args)))
}

// arg adds an argument and returns its placeholder.
func (w *scan) arg(args *[]any, v any) string {
	*args = append(*args, v)
	return fmt.Sprintf("$%d", len(*args))
}

// run looks for up to limit numbers below the cursor. next is where to go on,
// 0 at the end.
func (w *scan) run(ctx context.Context, conn *pgx.Conn, before int64, limit int) (numbers []int64, next int64, err error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	if w.to > 0 {
		before = min(before, w.to)
	}
	if w.width == 0 {
		w.width = scanSpan
	}
	for began := time.Now(); ; {
		low := w.from
		if !w.whole {
			top, created, err := w.top(ctx, conn, before)
			if err != nil || top == 0 || created < w.since.UnixMilli() && !w.since.IsZero() {
				return numbers, 0, err
			}
			before, low = top+1, max(top-w.width, w.from)
		}
		found, last, err := w.span(ctx, conn, before, low, limit-len(numbers))
		if err != nil {
			return nil, 0, err
		}
		numbers = append(numbers, found...)
		if before = low; last > 0 {
			before = last
		}
		switch {
		case before <= max(w.from, 1):
			return numbers, 0, nil
		case len(numbers) >= limit || time.Since(began) > scanTime:
			return numbers, before, nil
		}
	}
}

// top finds the next row that the index has. Numbers have gaps.
func (w *scan) top(ctx context.Context, conn *pgx.Conn, before int64) (number, created int64, err error) {
	query := "SELECT " + w.number + ", created FROM " + w.table + " r WHERE " + w.number + " < $1 AND " + w.number + " >= $2"
	if w.index != "" {
		query += " AND " + w.index
	}
	err = conn.QueryRow(ctx, query+" ORDER BY "+w.number+" DESC LIMIT 1", before, w.from).Scan(&number, &created)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil
	}
	return number, created, err
}

// span finds up to limit rows from low on. last is the lowest of them when
// there may be more, else 0.
func (w *scan) span(ctx context.Context, conn *pgx.Conn, before, low int64, limit int) (numbers []int64, last int64, err error) {
	text := w.text
	if text == "" {
		text = "''::bytea"
	}
	args := append([]any(nil), w.args...)
	query := "SELECT " + w.number + ", " + text + " FROM " + w.table + " r WHERE " + w.number + " < " + w.arg(&args, before) + " AND " + w.number + " >= " + w.arg(&args, low)
	if w.index != "" {
		query += " AND " + w.index
	}
	query += w.where
	if !w.since.IsZero() {
		query += " AND created >= " + w.arg(&args, w.since.UnixMilli())
	}
	query += " ORDER BY " + w.number + " DESC LIMIT " + w.arg(&args, limit)
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, 0, err
	}
	seen := 0
	var value []byte
	_, err = pgx.ForEachRow(rows, []any{&last, &value}, func() error {
		seen++
		if w.keep == nil || w.keep(string(value)) {
			numbers = append(numbers, last)
		}
		return nil
	})
	if seen < limit {
		last = 0
	}
	return numbers, last, err
}

// refs returns the predictions with an ID, of which each API may have one.
func refs(ctx context.Context, conn *pgx.Conn, id string) ([]int64, error) {
	low := ledger.IDKey(id)
	high := append(ledger.IDKey(id), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	rows, err := conn.Query(ctx, "SELECT ref FROM webhook_predictions WHERE key BETWEEN $1 AND $2", low, high)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// ListDeliveries implements store.Inspector.
func (h *history) ListDeliveries(ctx context.Context, f store.DeliveryFilter) (rows []store.DeliveryRow, next int64, err error) {
	err = h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		w := scan{number: "n", table: "webhook_deliveries", since: f.Since, to: ledger.FirstEvent}
		if f.Inbound {
			w.from, w.to, w.width = ledger.FirstEvent, 0, eventSpan
			h.s.inbox.filter(&w, f)
		}
		if f.Prediction != "" {
			refs, err := refs(ctx, conn, f.Prediction)
			if f.Inbound {
				refs, err = orderNumbers(ctx, conn, f.Scope, f.Prediction)
			}
			if err != nil || len(refs) == 0 {
				return err
			}
			w.whole = true
			w.and("prediction = ANY(%s)", refs)
		}
		if f.State != nil {
			state := int16(*f.State)
			condition := fmt.Sprintf("state = %d", state)
			if w.whole || state == int16(store.DeliveryDelivered) {
				w.where += " AND " + condition
			} else {
				w.index = condition
			}
		}
		if f.Event != 0 && f.Event != event.All && !f.Inbound {
			w.and("event & %s <> 0", int16(f.Event))
		}
		if f.Endpoint != "" && !f.Inbound {
			w.text = "(SELECT url FROM webhook_predictions p WHERE p.ref = r.prediction)"
			// The beginning of the URL excludes most of the others.
			w.and("lower(encode("+w.text+", 'escape')) LIKE %s", likeEscape.Replace(urlStart(f.Endpoint))+"%")
			w.keep = func(url string) bool { return store.EndpointOf(url) == f.Endpoint }
		}
		if f.Client != "" && !f.Inbound {
			w.and("position(%s in (SELECT client FROM webhook_predictions p WHERE p.ref = r.prediction)) > 0", []byte(f.Client))
		}
		if f.Class != nil {
			// Most rows are delivered ones, whose attempts need no look.
			delivered := "state <> 1 AND "
			if *f.Class == 2 {
				delivered = "state = 1 OR "
			}
			w.and("("+delivered+"(SELECT a.status / 100 FROM webhook_attempts a WHERE a.prediction = r.prediction AND a.delivery = r.n ORDER BY a.id DESC LIMIT 1) = %s)", *f.Class)
		}
		var numbers []int64
		if numbers, next, err = w.run(ctx, conn, f.Before, f.Limit); err != nil || len(numbers) == 0 {
			return err
		}
		if f.Inbound {
			rows, err = h.s.inbox.list(ctx, conn, numbers, "NULL::bytea", "NULL::bytea")
		} else {
			rows, err = listDeliveries(ctx, conn, numbers, "NULL::bytea")
		}
		return err
	})
	return rows, next, err
}

var likeEscape = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// urlStart returns the text that the URLs of an endpoint begin with, up to the
// first character that is not ASCII.
func urlStart(endpoint string) string {
	start := strings.TrimSuffix(strings.TrimSuffix(endpoint, ":443"), ":80")
	if i := strings.IndexFunc(start, func(r rune) bool { return r > unicode.MaxASCII || r == '\\' }); i >= 0 {
		start = start[:i]
	}
	return start
}

// lastColumns and joinLast are the columns of the last attempt of a delivery d, which
// last reads.
const (
	lastColumns = "a.id, a.url, a.status, a.number, a.at, a.took, a.error, a.exception"
	joinLast    = ` LEFT JOIN LATERAL (SELECT * FROM webhook_attempts t WHERE t.prediction = d.prediction AND t.delivery = d.n ORDER BY t.id DESC LIMIT 1) a ON true`
)

// last is the last attempt of a delivery, as lastColumns selects it.
type last struct {
	id, at, took   *int64
	status, number *int
	url, err       []byte
	exception      *bool
}

func (l *last) targets() []any {
	return []any{&l.id, &l.url, &l.status, &l.number, &l.at, &l.took, &l.err, &l.exception}
}

// fill sets the last attempt of a row.
func (l *last) fill(r *store.DeliveryRow) {
	if l.id != nil {
		r.Last = &store.Attempt{
			ID: *l.id, Delivery: r.ID, Event: r.Event, URL: string(l.url), Status: *l.status, Number: *l.number,
			At: timeOf(*l.at), Took: time.Duration(*l.took), Error: string(l.err), Exception: *l.exception,
		}
	}
}

// listDeliveries reads deliveries by their numbers, newest first.
func listDeliveries(ctx context.Context, conn *pgx.Conn, numbers []int64, payload string) ([]store.DeliveryRow, error) {
	rows, err := conn.Query(ctx, `SELECT d.n, d.nonce, d.prediction, d.event, d.redelivery, d.state, d.attempts, d.due, d.created, p.id, p.client, p.url, p.traceparent, `+payload+`, `+lastColumns+`
		FROM webhook_deliveries d JOIN webhook_predictions p ON p.ref = d.prediction`+joinLast+` WHERE d.n = ANY($1) ORDER BY d.n DESC`, numbers)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (store.DeliveryRow, error) {
		var r store.DeliveryRow
		var nonce, due, created int64
		var kind, state int16
		var id, client, url, trace []byte
		var l last
		err := row.Scan(append([]any{&r.N, &nonce, &r.Prediction, &kind, &r.Redelivery, &state, &r.Attempts, &due, &created, &id, &client, &url, &trace, &r.Payload}, l.targets()...)...)
		r.ID, r.Event, r.State, r.Due, r.CreatedAt = ledger.DeliveryID(r.N, nonce), event.Set(kind), store.DeliveryState(state), timeOf(due), timeOf(created)
		r.PredictionID, r.Client, r.URL, r.Traceparent = string(id), string(client), string(url), string(trace)
		l.fill(&r)
		return r, err
	})
}

// FindDelivery implements store.Inspector.
func (h *history) FindDelivery(ctx context.Context, id string) (store.DeliveryRow, []store.Attempt, error) {
	n, _, ok := ledger.ParseID(id)
	if !ok {
		return store.DeliveryRow{}, nil, store.ErrNotFound
	}
	var rows []store.DeliveryRow
	err := h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		if n >= ledger.FirstEvent {
			rows, err = h.s.inbox.list(ctx, conn, []int64{n}, "i.head", "(SELECT body FROM webhook_payloads WHERE n = d.n)")
			return err
		}
		rows, err = listDeliveries(ctx, conn, []int64{n}, "(SELECT body FROM webhook_payloads WHERE n = "+payloadNumber+")")
		return err
	})
	switch {
	case err != nil:
		return store.DeliveryRow{}, nil, err
	case len(rows) == 0 || rows[0].ID != id:
		return store.DeliveryRow{}, nil, store.ErrNotFound
	}
	attempts, err := h.readAttempts(ctx, "a.prediction = $1 AND a.delivery = $2 ORDER BY a.id", rows[0].Prediction, n)
	return rows[0], attempts, err
}

// RedeliverDelivery implements store.Inspector.
func (h *history) RedeliverDelivery(ctx context.Context, id string) (string, error) {
	n, nonce, ok := ledger.ParseDeliveryID(id)
	if !ok {
		return "", store.ErrNotFound
	}
	var ref int64
	err := h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT prediction FROM webhook_deliveries WHERE n = $1 AND nonce = $2", n, nonce).Scan(&ref)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return h.redeliver(ctx, ref, "d.n = $1", n)
}

// ListPredictions implements store.Inspector.
func (h *history) ListPredictions(ctx context.Context, f store.PredictionFilter) (out []store.Prediction, next int64, err error) {
	err = h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		w := scan{number: "ref", table: "webhook_predictions"}
		if f.ID != "" {
			refs, err := refs(ctx, conn, f.ID)
			if err != nil || len(refs) == 0 {
				return err
			}
			w.whole = true
			w.and("ref = ANY(%s)", refs)
		} else {
			w.where = " AND key IS NOT NULL"
		}
		if f.Webhook != nil {
			condition := fmt.Sprintf("webhook = %d", *f.Webhook)
			if w.whole || *f.Webhook < store.WebhookFailed {
				w.where += " AND " + condition
			} else {
				w.index = condition
			}
		}
		var numbers []int64
		if numbers, next, err = w.run(ctx, conn, f.Before, f.Limit); err != nil || len(numbers) == 0 {
			return err
		}
		out, err = listPredictions(ctx, conn, numbers)
		return err
	})
	return out, next, err
}

// listedColumns are predictionColumns without those that may be large or are
// secret.
var listedColumns = strings.NewReplacer("p.credential", "NULL::bytea", "p.token", "NULL::bytea", "p.body", "NULL::bytea").Replace(predictionColumns)

// listPredictions reads predictions by their numbers, newest first.
func listPredictions(ctx context.Context, conn *pgx.Conn, refs []int64) ([]store.Prediction, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	rows, err := conn.Query(ctx, "SELECT "+listedColumns+" FROM webhook_predictions p WHERE p.ref = ANY($1) ORDER BY p.ref DESC", refs)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (store.Prediction, error) {
		p, _, err := scanPrediction(row)
		return p, err
	})
}
