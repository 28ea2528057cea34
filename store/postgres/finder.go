package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/find"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// finder is the part of the store that finds what operators look for.
type finder struct{ s *Store }

// Find implements store.Finder.
func (f *finder) Find(ctx context.Context, text string, limit int) (store.Found, error) {
	return find.Find(ctx, findSource{f.s}, f.s, text, limit)
}

// findSource implements find.Source.
type findSource struct{ s *Store }

const (
	// origin is the beginning of a URL up to its path, with the slash. The first
	// eight characters are the scheme, and may be some of the host. It is
	// indexed.
	origin = `substring(url from 1 for 8 + position('\x2f'::bytea in substring(url from 9) || '\x2f'::bytea))`
	// indexedClient is what is indexed of a client. An entry of an index may have
	// some 2,700 bytes, and URLs have less.
	indexedClient = "substring(client from 1 for 512)"

	// The conditions and orders are written so that no other index seems to fit,
	// and the indexes so that they seem to fit nothing else.
	findByNumber      = "SELECT n FROM webhook_deliveries WHERE n >= $1 AND n < $2 ORDER BY n DESC LIMIT $3"
	findOfClient      = "SELECT ref FROM webhook_predictions WHERE " + indexedClient + " >= $1 AND " + indexedClient + " <= $1 AND key IS NOT NULL ORDER BY " + indexedClient + " DESC, ref + 0 DESC LIMIT $2"
	findOfOrigin      = "SELECT ref, url FROM webhook_predictions WHERE " + origin + " >= $1 AND " + origin + " <= $1 AND key IS NOT NULL ORDER BY " + origin + " DESC, ref + 0 DESC LIMIT $2"
	findByPredictions = "SELECT n FROM webhook_deliveries WHERE prediction = ANY($1) ORDER BY n + 0 DESC LIMIT $2"
)

var (
	findClients = skip(indexedClient)
	findOrigins = skip(origin)
)

// skip returns a query of the different values of an indexed expression, from a value
// on and in order, which reads one entry of the index for each.
func skip(of string) string {
	next := func(condition string) string {
		return "(SELECT " + of + " FROM webhook_predictions WHERE " + of + " " + condition + " ORDER BY " + of + " LIMIT 1)"
	}
	return "WITH RECURSIVE v (x) AS (SELECT " + next(">= $1") + " UNION ALL SELECT " + next("> v.x") + " FROM v WHERE v.x IS NOT NULL) SELECT x FROM v WHERE x IS NOT NULL LIMIT $2"
}

// ByNumber implements find.Source.
func (f findSource) ByNumber(ctx context.Context, r ledger.Numbers, limit int) ([]store.DeliveryRow, error) {
	return f.rows(ctx, findByNumber, r.From, r.To, limit)
}

// ByPredictions implements find.Source.
func (f findSource) ByPredictions(ctx context.Context, refs []int64, limit int) ([]store.DeliveryRow, error) {
	return f.rows(ctx, findByPredictions, refs, limit)
}

// Clients implements find.Source.
func (f findSource) Clients(ctx context.Context, from string, limit int) ([]string, error) {
	return f.texts(ctx, findClients, []byte(from), limit)
}

// Origins implements find.Source.
func (f findSource) Origins(ctx context.Context, from string, limit int) ([]string, error) {
	return f.texts(ctx, findOrigins, []byte(from), limit)
}

// OfClient implements find.Source.
func (f findSource) OfClient(ctx context.Context, client string, limit int) (found []store.Prediction, err error) {
	err = f.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		refs, err := collect(ctx, conn, pgx.RowTo[int64], findOfClient, []byte(client), limit)
		if err == nil {
			found, err = listPredictions(ctx, conn, refs)
		}
		return err
	})
	return found, err
}

// OfOrigin implements find.Source.
func (f findSource) OfOrigin(ctx context.Context, name, part string, among, limit int) (found []store.Prediction, more bool, err error) {
	type row struct {
		Ref int64
		URL []byte
	}
	err = f.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := collect(ctx, conn, pgx.RowToStructByPos[row], findOfOrigin, []byte(name), among)
		var refs []int64
		for _, r := range rows {
			if len(refs) < limit && strings.Contains(strings.ToLower(string(r.URL)), part) {
				refs = append(refs, r.Ref)
			}
		}
		more = len(rows) == among
		if err == nil {
			found, err = listPredictions(ctx, conn, refs)
		}
		return err
	})
	return found, more, err
}

// Newest implements find.Source.
func (f findSource) Newest(ctx context.Context, text string, limit int) (found []store.Prediction, events []store.DeliveryRow, more bool, err error) {
	err = f.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		w := scan{
			number: "ref", table: "webhook_predictions",
			where: " AND key IS NOT NULL AND (substring(id from 1 for $1) = $2 OR lower(encode(url, 'escape')) LIKE $3)",
			args:  []any{len(text), []byte(text), "%" + likeEscape.Replace(escape(strings.ToLower(text))) + "%"},
		}
		refs, next, err := w.run(ctx, conn, 0, limit)
		if err == nil {
			found, err = listPredictions(ctx, conn, refs)
		}
		if err != nil {
			return err
		}
		w = scan{
			number: "n", table: "webhook_deliveries", from: ledger.FirstEvent, width: eventSpan,
			where: " AND EXISTS (SELECT 1 FROM webhook_inbound i WHERE i.n = r.n AND substring(i.prediction from 1 for $1) = $2)",
			args:  []any{len(text), []byte(text)},
		}
		more = next != 0
		numbers, next, err := w.run(ctx, conn, 0, limit)
		if err == nil && len(numbers) > 0 {
			events, err = f.s.inbox.list(ctx, conn, numbers, "NULL::bytea", "NULL::bytea")
		}
		more = more || next != 0
		return err
	})
	return found, events, more, err
}

// escape encodes a text as the database does with the format escape.
func escape(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case c == 0 || c >= 0x80:
			fmt.Fprintf(&b, `\%03o`, c)
		case c == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// texts returns the values of a query of one column.
func (f findSource) texts(ctx context.Context, query string, args ...any) (out []string, err error) {
	err = f.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		values, err := collect(ctx, conn, pgx.RowTo[[]byte], query, args...)
		for _, v := range values {
			out = append(out, string(v))
		}
		return err
	})
	return out, err
}

// rows reads the deliveries and events whose numbers a query returns, newest first.
func (f findSource) rows(ctx context.Context, query string, args ...any) (out []store.DeliveryRow, err error) {
	err = f.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		numbers, err := collect(ctx, conn, pgx.RowTo[int64], query, args...)
		deliveries, events := ledger.SplitNumbers(numbers)
		if err == nil && len(events) > 0 {
			out, err = f.s.inbox.list(ctx, conn, events, "NULL::bytea", "NULL::bytea")
		}
		if err != nil || len(deliveries) == 0 {
			return err
		}
		more, err := listDeliveries(ctx, conn, deliveries, "NULL::bytea")
		out = append(out, more...)
		return err
	})
	return out, err
}

// Interface guards.
var (
	_ store.Finder = (*finder)(nil)
	_ find.Source  = findSource{}
)
