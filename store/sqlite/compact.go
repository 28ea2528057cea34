package sqlite

import (
	"context"
	"database/sql"
)

const (
	// compactRows is how many rows one transaction merges: few enough that
	// commits behind it do not wait for long.
	compactRows = 256
	// compactFull is the size from which a row is not merged.
	compactFull = 512 * entrySize
	// compactWindow, in milliseconds, is how far apart entries that share a
	// row may expire. They are purged together.
	compactWindow = 10 * 60 * 1000
)

// Compact merges rows that were committed with few entries each, so that opening a
// store with a million entries reads a few thousand rows.
func (d *dedup) Compact() error {
	d.compacting.Lock()
	defer d.compacting.Unlock()
	for {
		var last, highest int64
		err := d.s.writer.do(context.Background(), &op{write: func(g *group) (err error) {
			last, highest, err = g.compact(d.compacted)
			return err
		}})
		switch {
		case err != nil:
			return err
		case highest < d.compacted:
			d.compacted = 0 // all rows were purged and numbers begin again
			continue
		case last == 0:
			return nil
		}
		d.compacted = last
		select {
		case <-d.s.stop:
			return nil
		default:
		}
	}
}

// compactKey is what rows must share to be merged.
type compactKey struct {
	scope  string
	window int64
}

// compact merges the next full batch of rows after a number. It returns the last
// number that it looked at, or 0 if there were too few rows, and the highest number
// in use.
func (w *entryWrites) compact(after int64) (last, highest int64, err error) {
	stmt, err := w.g.stmt("SELECT coalesce(max(id), 0) FROM dedup")
	if err != nil {
		return 0, 0, err
	}
	if err := stmt.QueryRow().Scan(&highest); err != nil {
		return 0, 0, err
	}
	ids, merged, last, err := w.mergeable(after)
	if err != nil {
		return 0, highest, err
	}
	for _, id := range ids {
		if err := w.g.exec("DELETE FROM dedup WHERE id = ?", id); err != nil {
			return 0, highest, err
		}
	}
	for key, row := range merged {
		if err := w.insertEntries(key.scope, row); err != nil {
			return 0, highest, err
		}
	}
	return last, highest, nil
}

// mergeable reads a batch of rows and returns the numbers of the small ones with
// the rows to replace them.
func (w *entryWrites) mergeable(after int64) (ids []int64, merged map[compactKey]*entryRow, last int64, err error) {
	rows, err := w.g.query("SELECT id, scope, expires, signed, sum, entries FROM dedup WHERE id > ? ORDER BY id LIMIT ?", after, compactRows)
	if err != nil {
		return nil, nil, 0, err
	}
	defer rows.Close()
	merged = make(map[compactKey]*entryRow)
	n := 0
	for ; rows.Next(); n++ {
		var row entryRow
		var key compactKey
		var sum int64
		var entries sql.RawBytes
		if err := rows.Scan(&last, &key.scope, &row.expires, &row.signed, &sum, &entries); err != nil {
			return nil, nil, 0, err
		}
		if row.entries = entries; row.sum(key.scope) != sum {
			return nil, nil, 0, &checksumError{last}
		}
		if len(entries) >= compactFull {
			continue
		}
		key.window = row.expires / compactWindow
		into := merged[key]
		if into == nil {
			into = new(entryRow)
			merged[key] = into
		}
		into.expires = max(into.expires, row.expires)
		into.signed = max(into.signed, row.signed)
		into.entries = append(into.entries, entries...)
		ids = append(ids, last)
	}
	if n < compactRows {
		return nil, nil, 0, rows.Err()
	}
	if len(ids) <= len(merged) {
		return nil, nil, last, rows.Err() // nothing to gain
	}
	return ids, merged, last, rows.Err()
}
