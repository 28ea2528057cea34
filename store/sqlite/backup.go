package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
		return 0, fmt.Errorf("store %s %w", source, recoverable(err))
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if size, err = writeBackup(ctx, db, to); err != nil {
		return 0, fmt.Errorf("backup %s %w", to, err)
	}
	return size, nil
}

// writeBackup makes the file before SQLite does, for its mode. What can't be
// completed is removed.
func writeBackup(ctx context.Context, db *sql.DB, to string) (size int64, err error) {
	if err := checkName(to); err != nil {
		return 0, err
	}
	if to, err = filepath.Abs(to); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return 0, errors.New("is there already: name a new file")
	case err != nil:
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	if err := f.Chmod(0o600); err != nil { // whatever the umask
		return 0, err
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return 0, err
	}
	if err := checkBackup(ctx, to); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), errors.Join(f.Sync(), syncDir(filepath.Dir(to)))
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
