package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// entrySize is a key and its expiry in Unix milliseconds, big-endian.
const entrySize = len(store.Key{}) + 8

// entryRow is the entries of one scope that are committed together.
type entryRow struct {
	expires, signed int64
	entries         []byte
}

// entryWrites writes and purges the entries of a group.
type entryWrites struct {
	g       *group
	entries map[string]*entryRow
}

// add adds an entry to its scope's row of this transaction.
func (w *entryWrites) add(e *store.Entry) {
	if len(e.Keys) == 0 {
		return
	}
	row := w.entries[e.Scope]
	if row == nil {
		row = new(entryRow)
		if w.entries == nil {
			w.entries = make(map[string]*entryRow, 1)
		}
		w.entries[e.Scope] = row
	}
	expires := e.Expires.UnixMilli()
	row.expires = max(row.expires, expires)
	row.signed = max(row.signed, e.PurgeMark())
	for _, k := range e.Keys {
		row.entries = append(row.entries, k[:]...)
		row.entries = binary.BigEndian.AppendUint64(row.entries, uint64(expires))
	}
}

// flush writes the rows of the entries that were added, and the counts of inboxes.
func (w *entryWrites) flush() error {
	for scope, row := range w.entries {
		if err := w.insertEntries(scope, row); err != nil {
			return err
		}
	}
	return w.g.flushBoxes()
}

func (w *entryWrites) insertEntries(scope string, row *entryRow) error {
	return w.g.exec("INSERT INTO dedup (scope, expires, signed, sum, entries) VALUES (?, ?, ?, ?, ?)",
		scope, row.expires, row.signed, row.sum(scope), row.entries)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum returns a CRC-32C over the whole row. SQLite detects a page that is not
// well-formed, but not a flipped bit in the content of a page. A flipped bit in a
// key would let an event be forwarded twice.
func (r *entryRow) sum(scope string) int64 {
	head := binary.BigEndian.AppendUint64([]byte(scope), uint64(r.expires))
	head = binary.BigEndian.AppendUint64(head, uint64(r.signed))
	return int64(crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, r.entries))
}

// checksumError says that a row is not as it was written.
type checksumError struct{ id int64 }

func (e *checksumError) Error() string {
	return fmt.Sprintf("checksum of dedup row %d does not match", e.id)
}

// entries are the committed entries, in memory.
type entries struct {
	mu sync.Mutex
	// live has the expiry of each entry, in Unix milliseconds.
	live map[store.Key]int64
	// purged is the newest signed time purged from a scope, in Unix
	// milliseconds.
	purged map[string]int64
}

// check returns [store.ErrDuplicate] if an event was committed and has not
// expired, and [store.ErrReplayed] if it may have been purged.
func (s *entries) check(e *store.Entry, now int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range e.Keys {
		if expires, ok := s.live[k]; ok && expires > now {
			return store.ErrDuplicate
		}
	}
	if mark, ok := s.purged[e.Scope]; ok && !e.SignedAt.IsZero() && e.SignedAt.UnixMilli() <= mark {
		return store.ErrReplayed
	}
	return nil
}

// add adds an entry that was committed.
func (s *entries) add(e *store.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range e.Keys {
		s.live[k] = max(s.live[k], e.Expires.UnixMilli())
	}
	metrics.SetDedupEntries(len(s.live))
}

// count returns the number of entries.
func (s *entries) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// load reads the entries and the marks of what was purged.
func (s *entries) load(db *sql.DB) error {
	s.live = make(map[store.Key]int64)
	s.purged = make(map[string]int64)
	return errors.Join(s.loadEntries(db), s.loadPurged(db))
}

func (s *entries) loadEntries(db *sql.DB) error {
	rows, err := db.Query("SELECT id, scope, expires, signed, sum, entries FROM dedup")
	if err != nil {
		return err
	}
	defer rows.Close()
	var (
		id, sum int64
		row     entryRow
		scope   sql.RawBytes
		entries sql.RawBytes
	)
	for rows.Next() {
		if err := rows.Scan(&id, &scope, &row.expires, &row.signed, &sum, &entries); err != nil {
			return err
		}
		row.entries = entries
		if row.sum(string(scope)) != sum || len(entries)%entrySize != 0 {
			return &checksumError{id}
		}
		row.each(func(k store.Key, expires int64) { s.live[k] = max(s.live[k], expires) })
	}
	metrics.SetDedupEntries(len(s.live))
	return rows.Err()
}

func (s *entries) loadPurged(db *sql.DB) error {
	rows, err := db.Query("SELECT scope, signed FROM purged")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var scope string
		var signed int64
		if err := rows.Scan(&scope, &signed); err != nil {
			return err
		}
		s.purged[scope] = signed
	}
	return rows.Err()
}

// each calls f with the key and the expiry of each entry.
func (r *entryRow) each(f func(store.Key, int64)) {
	for e := r.entries; len(e) >= entrySize; e = e[entrySize:] {
		f(store.Key(e[:16]), int64(binary.BigEndian.Uint64(e[16:entrySize])))
	}
}

// purgeEntries is about how many entries one transaction purges.
const purgeEntries = 2000

// expiredRow is a row to be purged.
type expiredRow struct {
	id    int64
	scope string
	until int64 // up to when entries of the scope have expired
	entryRow
}

// purgeBatch purges the rows that expired first. It reports whether there may be
// more.
func (s *Store) purgeBatch() (more bool, err error) {
	now := s.opts.clock.Settled().UnixMilli()
	if err := s.inbox.raise(now); err != nil {
		return false, s.readError(err)
	}
	// Searching on a connection of its own does not stop the writer.
	var found bool
	if err := s.db.QueryRow("SELECT EXISTS (SELECT 1 FROM dedup WHERE expires <= ?)", now).Scan(&found); err != nil || !found {
		return false, s.readError(err)
	}
	var rows []expiredRow
	err = s.writer.do(context.Background(), &op{
		write: func(g *group) error {
			if rows, err = g.expired(now); err != nil {
				return err
			}
			for _, r := range rows {
				if err := g.purge(r); err != nil {
					return err
				}
			}
			return nil
		},
		after: func() {
			s.entries.purge(rows)
			s.claims.Expire(now)
		},
	})
	return len(rows) > 0, err
}

// expired returns the rows that have expired, up to about purgeEntries entries. A row
// with the entry of an event that waits is kept.
func (w *entryWrites) expired(now int64) ([]expiredRow, error) {
	query, args := "SELECT id, scope, signed, entries FROM dedup WHERE expires <= ?", []any{now}
	until := make(map[string]int64)
	for _, b := range w.g.w.boxes.behind(now) {
		until[b.scope] = w.g.w.boxes.expiry(b.scope, now)
		query += " AND NOT (scope = ? AND expires > ?)"
		args = append(args, b.scope, until[b.scope])
	}
	rows, err := w.g.query(query+" ORDER BY id LIMIT ?", append(args, purgeEntries)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []expiredRow
	for n := 0; n < purgeEntries && rows.Next(); {
		var r expiredRow
		if err := rows.Scan(&r.id, &r.scope, &r.signed, &r.entries); err != nil {
			return nil, err
		}
		n += len(r.entries) / entrySize
		if r.until = now; len(until) > 0 {
			if u, ok := until[r.scope]; ok {
				r.until = u
			}
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// purge deletes a row and keeps the newest signed time of its scope.
func (w *entryWrites) purge(r expiredRow) error {
	if err := w.g.exec("DELETE FROM dedup WHERE id = ?", r.id); err != nil {
		return err
	}
	if r.signed == 0 {
		return nil
	}
	return w.g.exec("INSERT INTO purged (scope, signed) VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET signed = max(signed, excluded.signed)", r.scope, r.signed)
}

// purge removes rows that were purged. An entry that was committed again later
// stays.
func (s *entries) purge(rows []expiredRow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		if r.signed != 0 {
			s.purged[r.scope] = max(s.purged[r.scope], r.signed)
		}
		r.each(func(k store.Key, _ int64) {
			if s.live[k] <= r.until {
				delete(s.live, k)
			}
		})
	}
	metrics.SetDedupEntries(len(s.live))
}
