package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddy-replicate/replicate-webhook/internal/fsync"
)

// Backup writes a copy of the database at from into a new file, which nobody but
// its owner may read, and returns the size of it. The copy is that of one moment,
// complete in itself and durable when Backup returns. A process may have the
// database open meanwhile, and goes on committing.
func Backup(ctx context.Context, from, to string) (size int64, err error) {
	source := from
	if from, err = locate(from); err == nil {
		_, err = os.Lstat(from)
	}
	if err != nil {
		return 0, fmt.Errorf("store %s %w", source, err)
	}
	db, err := openDB(from)
	if err != nil {
		return 0, fmt.Errorf("store %s %w", source, withRecoveryHint(err))
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if size, err = writeBackup(ctx, db, to); err != nil {
		return 0, fmt.Errorf("backup %s %w", to, err)
	}
	return size, nil
}

// writeBackup writes the copy under a name of its own, which ends in ".partial",
// so that one that a crash interrupts is never taken for a backup. It makes the
// file before SQLite does, for its mode. What can't be completed is removed.
func writeBackup(ctx context.Context, db *sql.DB, to string) (size int64, err error) {
	if err := checkName(to); err != nil {
		return 0, err
	}
	if to, err = filepath.Abs(to); err != nil {
		return 0, err
	}
	if _, err := os.Lstat(to); err == nil {
		return 0, errBackupThere
	}
	f, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+".*.partial")
	if err != nil {
		return 0, err
	}
	partial := f.Name()
	defer func() {
		_ = f.Close()
		if removed := os.Remove(partial); !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}()
	if err := f.Chmod(0o600); err != nil { // whatever the umask
		return 0, err
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", partial); err != nil {
		return 0, err
	}
	if err := checkBackup(ctx, partial); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	if err := publish(partial, to); err != nil {
		return 0, err
	}
	if err := fsync.Dir(filepath.Dir(to)); err != nil {
		return 0, errors.Join(err, os.Remove(to))
	}
	return info.Size(), nil
}

var errBackupThere = errors.New("is there already: name a new file")

// publish gives a complete file its name, unless that is another file's.
func publish(partial, name string) error {
	if os.Link(partial, name) == nil {
		return nil
	}
	// The name is taken, or the file system has no hard links.
	if _, err := os.Lstat(name); err == nil {
		return errBackupThere
	}
	return os.Rename(partial, name)
}

// checkBackup reads all of it.
func checkBackup(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", dsn(path, "query_only(1)"))
	if err != nil {
		return err
	}
	defer db.Close()
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return fmt.Errorf("is not whole: %s: the store is damaged", result)
	}
	return nil
}
