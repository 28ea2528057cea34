package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/caddy-replicate/replicate-webhook/internal/fsync"
)

const (
	// applicationID marks the file as a store of this plugin: "RpWh" in ASCII.
	applicationID = 0x52705768

	// lockWait is how long to wait for the lock. It covers a restart while the
	// old process still closes the file, and a reload while the last request of
	// the old configuration still uses it.
	lockWait = 3 * time.Second
)

// schema is that of version 1, where migrations begin. It is written in one
// transaction, into a file that gets its name afterwards, so that an empty file is
// never a store.
//
// A row of dedup is a group of entries of one scope that were committed
// together. expires and signed are the newest of the group in Unix
// milliseconds, sum is a checksum (see entryRow.sum), and entries has 24 bytes for
// each entry: key, expiry. There is no index on expires: it would double what a
// commit writes, and there are few compacted rows to scan.
const schema = `
CREATE TABLE dedup (
	id      INTEGER PRIMARY KEY,
	scope   TEXT    NOT NULL,
	expires INTEGER NOT NULL,
	signed  INTEGER NOT NULL,
	sum     INTEGER NOT NULL,
	entries BLOB    NOT NULL
);
CREATE TABLE purged (
	scope  TEXT    PRIMARY KEY,
	signed INTEGER NOT NULL
) WITHOUT ROWID;
` + trackingSchema

// lockFile locks the file beside the database that keeps other processes out. It
// is a file of its own because closing any descriptor of the database would drop
// SQLite's own locks.
func lockFile(path string) (*flock.Flock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("directory can't be created: %w", err)
	}
	l := flock.New(path+".lock", flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	ok, err := l.TryLockContext(ctx, 20*time.Millisecond)
	switch {
	case ok:
		return l, nil
	case err == nil, errors.Is(err, context.DeadlineExceeded):
		_ = l.Close()
		return nil, errors.New("is in use by another process; give each Caddy its own file, or use store postgres for several")
	default:
		_ = l.Close()
		return nil, fmt.Errorf("can't be locked: %w", err)
	}
}

// prepareFile creates the database if there is none. It returns an error where
// opening the path would silently begin with an empty store.
func prepareFile(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createFile(path); err != nil {
			return err
		}
	} else if err := checkHeader(path); err != nil {
		return err
	}
	for _, suffix := range companions {
		if err := restrict(path + suffix); err != nil {
			return err
		}
	}
	return nil
}

// restrict makes a file inaccessible to everybody but its owner.
func restrict(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	return os.Chmod(name, info.Mode().Perm()&0o600)
}

// checkHeader returns an error for a file that SQLite must not open, because
// opening a file can change it. It must be called before SQLite opens the file: see
// lockFile.
func checkHeader(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	header := make([]byte, 100) // see "The Database Header" of SQLite's file format
	n, err := io.ReadFull(f, header)
	switch {
	case n == 0:
		return fmt.Errorf("is empty, which this plugin never leaves behind: %s", recovery)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case n == len(header) && bytes.HasPrefix(header, []byte("SQLite format 3\x00")) && binary.BigEndian.Uint32(header[68:]) != applicationID:
		return errForeign
	}
	return nil
}

var errForeign = errors.New("is a SQLite database of another program; name another file")

// createFile creates an empty store, which gets its name when it is complete.
func createFile(path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return fmt.Errorf("is missing but its log %s exists: restore the database from a backup, or move the log aside to start from nothing", filepath.Base(path)+suffix)
		}
	}
	fresh := path + ".new"
	for _, name := range []string{fresh, fresh + "-wal", fresh + "-shm", fresh + "-journal"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Close()) // whatever the umask
	}
	if err == nil {
		err = writeSchema(fresh)
	}
	if err != nil {
		return fmt.Errorf("can't be created: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return fsync.Dir(filepath.Dir(path))
}

// writeSchema writes the tables into an empty file.
func writeSchema(path string) error {
	db, err := sql.Open("sqlite", dsn(path, "journal_mode(DELETE)", "synchronous(FULL)"))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(fmt.Sprintf("PRAGMA application_id=%d; %s", applicationID, upgrade(0))); err != nil {
		return err
	}
	return db.Close()
}

// openDB opens the file under its name and checks that it is a store of this
// plugin. At this first read SQLite refuses a file that is shorter than its header
// says.
func openDB(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, connPragmas...))
	if err != nil {
		return nil, err
	}
	var app, version int
	if err := errors.Join(
		db.QueryRow("PRAGMA application_id").Scan(&app),
		db.QueryRow("PRAGMA user_version").Scan(&version),
	); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	switch {
	case app != applicationID:
		err = errForeign
	case version > schemaVersion:
		err = fmt.Errorf("has schema version %d, newer than the %d this build knows: run the newer build, or restore a backup made before the upgrade", version, schemaVersion)
	default:
		err = useLog(db)
	}
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// useLog puts the database into WAL mode, which is permanent, and opens its log.
func useLog(db *sql.DB) error {
	var mode string
	if err := db.QueryRow("PRAGMA journal_mode=WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("has journal mode %s in place of a write-ahead log: put it on a local disk", mode)
	}
	var version int // any read opens the log
	return db.QueryRow("PRAGMA schema_version").Scan(&version)
}

// connPragmas hold for every connection. synchronous=FULL makes commits durable: in
// WAL mode a commit then returns after the log is fsynced. Checkpoints have a loop
// of their own; the automatic one, at 16 MB of log, is for when that loop fails.
var connPragmas = []string{
	"busy_timeout(5000)",
	"synchronous(FULL)",
	"wal_autocheckpoint(4096)",
	"journal_size_limit(33554432)",
	narrowCache, // reads the schema, and so opens the log as well
}

// narrowCache is the page cache of a connection, in KiB below zero.
const narrowCache = "cache_size(-2000)"

// dsn returns the data source name of an existing file: with mode=rw SQLite creates
// none.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}, "mode": {"rw"}}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}

// recovery says what can be done about a damaged file.
const recovery = "restore it from a backup, or stop Caddy, move the file and its -wal and -shm aside and start again, after which events accepted before can be accepted once more"

// withRecoveryHint returns an error of opening or reading the file with what can be
// done about it, if it means that the file is damaged.
func withRecoveryHint(err error) error {
	var checksum *checksumError
	var e *driver.Error
	switch {
	case errors.As(err, &checksum):
	case !errors.As(err, &e):
		return err
	case e.Code()&0xff != lib.SQLITE_CORRUPT && e.Code()&0xff != lib.SQLITE_NOTADB:
		return fmt.Errorf("can't be opened: %w", err)
	}
	return fmt.Errorf("is corrupt: %w: %s", err, recovery)
}
