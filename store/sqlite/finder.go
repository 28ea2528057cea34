package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/find"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// finder is the part of the store that finds what operators look for.
type finder struct{ s *Store }

// Find implements store.Finder.
func (f *finder) Find(ctx context.Context, text string, limit int) (store.Found, error) {
	found, err := find.Find(ctx, findSource{f.s}, f.s, text, limit)
	return found, f.s.readError(err)
}

// findSource implements find.Source.
type findSource struct{ s *Store }

const (
	// origin is the beginning of a URL up to its path, with the slash. The first
	// eight characters are the scheme, and may be some of the host. It is
	// indexed.
	origin = "substr(url, 1, 8 + instr(substr(url, 9) || '/', '/'))"

	findByNumber      = "SELECT n FROM deliveries WHERE n >= ? AND n < ? ORDER BY n DESC LIMIT ?"
	findOfClient      = "SELECT ref FROM predictions INDEXED BY predictions_client WHERE client = ? AND key IS NOT NULL ORDER BY ref DESC LIMIT ?"
	findOfOrigin      = "SELECT ref, url FROM predictions INDEXED BY predictions_origin WHERE " + origin + " = ? AND key IS NOT NULL ORDER BY ref DESC LIMIT ?"
	findByPredictions = "SELECT n FROM deliveries INDEXED BY deliveries_prediction WHERE prediction IN (%) ORDER BY n DESC LIMIT ?"
	findNewestEvents  = "substr(b.prediction, 1, ?) = ?"
)

var (
	findClients = skip("client", "predictions_client")
	findOrigins = skip(origin, "predictions_origin")
)

// skip returns a query of the different values of an indexed expression, from a value
// on and in order, which reads one entry of the index for each.
func skip(of, index string) string {
	next := func(condition string) string {
		return "(SELECT " + of + " FROM predictions INDEXED BY " + index + " WHERE " + of + " " + condition + " ORDER BY " + of + " LIMIT 1)"
	}
	return "WITH RECURSIVE v (x) AS (SELECT " + next(">= ?") + " UNION ALL SELECT " + next("> v.x") + " FROM v WHERE v.x IS NOT NULL) SELECT x FROM v WHERE x IS NOT NULL LIMIT ?"
}

// ByNumber implements find.Source.
func (f findSource) ByNumber(ctx context.Context, r ledger.Numbers, limit int) ([]store.DeliveryRow, error) {
	numbers, err := f.numbers(ctx, findByNumber, r.From, r.To, limit)
	return f.rows(ctx, numbers, err)
}

// ByPredictions implements find.Source.
func (f findSource) ByPredictions(ctx context.Context, refs []int64, limit int) ([]store.DeliveryRow, error) {
	args := make([]any, 0, len(refs)+1)
	for _, ref := range refs {
		args = append(args, ref)
	}
	numbers, err := f.numbers(ctx, strings.Replace(findByPredictions, "%", marks(len(refs)), 1), append(args, limit)...)
	return f.rows(ctx, numbers, err)
}

// Clients implements find.Source.
func (f findSource) Clients(ctx context.Context, from string, limit int) ([]string, error) {
	return collect[string](ctx, f.s.db, findClients, from, limit)
}

// Origins implements find.Source.
func (f findSource) Origins(ctx context.Context, from string, limit int) ([]string, error) {
	return collect[string](ctx, f.s.db, findOrigins, from, limit)
}

// OfClient implements find.Source.
func (f findSource) OfClient(ctx context.Context, client string, limit int) ([]store.Prediction, error) {
	refs, err := f.numbers(ctx, findOfClient, client, limit)
	return f.predictions(ctx, refs, err)
}

// OfOrigin implements find.Source.
func (f findSource) OfOrigin(ctx context.Context, name, part string, among, limit int) ([]store.Prediction, bool, error) {
	rows, err := f.s.db.QueryContext(ctx, findOfOrigin, name, among)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	var refs []int64
	read := 0
	for ; len(refs) < limit && rows.Next(); read++ {
		var ref int64
		var url string
		if err := rows.Scan(&ref, &url); err != nil {
			return nil, false, err
		}
		if strings.Contains(strings.ToLower(url), part) {
			refs = append(refs, ref)
		}
	}
	found, err := f.predictions(ctx, refs, errors.Join(rows.Err(), rows.Close()))
	return found, read == among, err
}

// Newest implements find.Source.
func (f findSource) Newest(ctx context.Context, text string, limit int) (found []store.Prediction, events []store.DeliveryRow, more bool, err error) {
	length := len([]rune(text))
	w := scan{
		number: "t.ref", from: "predictions t", where: "(substr(t.id, 1, ?) = ? OR instr(lower(t.url), ?) > 0) AND key IS NOT NULL",
		args: []any{length, text, strings.ToLower(text)},
	}
	refs, next, err := w.run(ctx, f.s.db, 0, limit)
	if found, err = f.predictions(ctx, refs, err); err != nil {
		return nil, nil, false, err
	}
	more = next != 0
	w = scan{number: "t.n", from: "deliveries t", join: " JOIN inbound b ON b.n = t.n", first: ledger.FirstEvent, where: findNewestEvents, args: []any{length, text}}
	numbers, next, err := w.run(ctx, f.s.db, 0, limit)
	events, err = f.rows(ctx, numbers, err)
	return found, events, more || next != 0, err
}

func (f findSource) numbers(ctx context.Context, query string, args ...any) ([]int64, error) {
	return collect[int64](ctx, f.s.db, query, args...)
}

// collect returns the values of a query of one column.
func collect[T any](ctx context.Context, db *sql.DB, query string, args ...any) (out []T, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// rows reads deliveries and events by their numbers, newest first.
func (f findSource) rows(ctx context.Context, numbers []int64, err error) ([]store.DeliveryRow, error) {
	deliveries, events := ledger.SplitNumbers(numbers)
	var out []store.DeliveryRow
	if err == nil && len(events) > 0 {
		out, err = f.s.eventRows(ctx, events, false)
	}
	if err != nil || len(deliveries) == 0 {
		return out, err
	}
	more, err := f.s.deliveryRows(ctx, deliveries, false)
	return append(out, more...), err
}

func (f findSource) predictions(ctx context.Context, refs []int64, err error) ([]store.Prediction, error) {
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	return f.s.predictionRows(ctx, refs)
}

// Interface guards.
var (
	_ store.Finder = (*finder)(nil)
	_ find.Source  = findSource{}
)
