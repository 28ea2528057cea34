package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"strings"
	"time"
)

const (
	// firstSpan is how many numbers the first query of a list looks through.
	// Each further one looks through more or less, as the time tells that
	// the one before took.
	firstSpan = 500
	maxSpan   = 20_000
	// spanTime is what a query should take.
	spanTime = 2 * time.Millisecond
	// scanTime is when a list stops looking for more rows and leaves the
	// rest to the next page.
	scanTime = 8 * time.Millisecond
)

// scan is a walk over a table's numbers, newest first, for those of the rows
// that match. It goes span by span, so that a page with few matches costs no
// more than one with many.
type scan struct {
	number string // column
	from   string // table, as t, and index
	join   string // of what where needs
	index  string // what the index is for, also where it finds the next span
	where  string // what else rows must match
	args   []any  // of index and where, in order; index has none
	since  time.Time
	// Only numbers from first on and below end are looked at. An end of 0 is
	// none.
	first, end int64
	// whole: the rows are few enough to be looked at in one go.
	whole bool
	// text is a column that keep is asked about.
	text string
	keep func(text string) bool
}

// run looks for up to limit numbers below the cursor. next is where to go on,
// 0 at the end.
func (w *scan) run(ctx context.Context, db *sql.DB, before int64, limit int) (numbers []int64, next int64, err error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	if w.end > 0 {
		before = min(before, w.end)
	}
	span := int64(firstSpan)
	for began := time.Now(); ; {
		low, start := w.first, time.Now()
		if !w.whole {
			top, created, err := w.top(ctx, db, before)
			if err != nil || top == 0 || created < w.since.UnixMilli() && !w.since.IsZero() {
				return numbers, 0, err
			}
			before, low = top+1, max(top-span, w.first)
		}
		wanted := limit - len(numbers)
		found, last, err := w.span(ctx, db, before, low, wanted)
		if err != nil {
			return nil, 0, err
		}
		numbers = append(numbers, found...)
		if before = low; last > 0 {
			before = last
		}
		if took := time.Since(start); took < spanTime/2 {
			span = min(2*span, maxSpan)
		} else if took > spanTime {
			span = max(span/2, firstSpan/10)
		}
		switch {
		case before <= max(w.first, 1):
			return numbers, 0, nil
		case len(numbers) >= limit || time.Since(began) > scanTime:
			return numbers, before, nil
		}
	}
}

// top finds the next row that the index has. Numbers have gaps where rows were
// forgotten.
func (w *scan) top(ctx context.Context, db *sql.DB, before int64) (number, created int64, err error) {
	var q strings.Builder
	q.WriteString("SELECT " + w.number + ", t.created FROM " + w.from + " WHERE " + w.number + " < ? AND " + w.number + " >= ?")
	if w.index != "" {
		q.WriteString(" AND " + w.index)
	}
	q.WriteString(" ORDER BY " + w.number + " DESC LIMIT 1")
	err = db.QueryRowContext(ctx, q.String(), before, w.first).Scan(&number, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return number, created, err
}

// span finds up to limit rows from low on. last is the lowest of them when
// there may be more, else 0.
func (w *scan) span(ctx context.Context, db *sql.DB, before, low int64, limit int) (numbers []int64, last int64, err error) {
	var q strings.Builder
	text := w.text
	if text == "" {
		text = "''"
	}
	q.WriteString("SELECT " + w.number + ", " + text + " FROM " + w.from + w.join + " WHERE " + w.number + " < ? AND " + w.number + " >= ?")
	args := []any{before, low}
	for _, condition := range []string{w.index, w.where} {
		if condition != "" {
			q.WriteString(" AND " + condition)
		}
	}
	args = append(args, w.args...)
	if !w.since.IsZero() {
		q.WriteString(" AND t.created >= ?")
		args = append(args, w.since.UnixMilli())
	}
	q.WriteString(" ORDER BY " + w.number + " DESC LIMIT ?")
	rows, err := db.QueryContext(ctx, q.String(), append(args, limit)...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	seen := 0
	for ; rows.Next(); seen++ {
		var value string
		if err := rows.Scan(&last, &value); err != nil {
			return nil, 0, err
		}
		if w.keep == nil || w.keep(value) {
			numbers = append(numbers, last)
		}
	}
	if seen < limit {
		last = 0
	}
	return numbers, last, rows.Err()
}
