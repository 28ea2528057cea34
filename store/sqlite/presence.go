package sqlite

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	driver "modernc.org/sqlite"
)

// companions are the suffixes of the files that make up an open store: the
// database, its write-ahead log, the log's index, and the process lock.
var companions = [...]string{"", "-wal", "-shm", ".lock"}

// presence checks that the names of the store's files still lead to the files that
// the process has open. On Unix an open file outlives its name. Without this check
// a store would go on committing to a database that nobody can open again.
type presence struct {
	path string
	// opened describes the files that were opened. The store keeps all of them
	// open, so that no other file can get the identity of one.
	opened [len(companions)]fs.FileInfo
}

// movedError says that a file can no longer be found under its name.
type movedError struct {
	file  string
	cause error
}

func (e *movedError) Error() string {
	return fmt.Sprintf("%s %v under the running process: put the very same file back, or stop Caddy, check the files and start it again", e.file, e.cause)
}

func (e *movedError) Unwrap() error { return e.cause }

var (
	errDeleted  = errors.New("was deleted or moved")
	errReplaced = errors.New("was replaced")
	errEmptied  = errors.New("was emptied")
)

// isMoved reports whether an error is a *movedError.
func isMoved(err error) bool {
	var moved *movedError
	return errors.As(err, &moved)
}

// record notes which files were opened. before is the file that the name of the
// database led to before it was opened.
func (p *presence) record(before fs.FileInfo) error {
	for i, suffix := range companions {
		info, err := os.Lstat(p.path + suffix)
		if err != nil {
			return err
		}
		p.opened[i] = info
	}
	if !os.SameFile(before, p.opened[0]) {
		return &movedError{filepath.Base(p.path), errReplaced}
	}
	return nil
}

// check returns a *movedError unless every name leads to the file that was
// opened under it. It runs with each commit and takes some microseconds.
//
// Sizes are not compared, since other programs may checkpoint and vacuum the
// database. It must not be empty, though.
func (p *presence) check() error {
	for i, suffix := range companions {
		name := filepath.Base(p.path) + suffix
		info, err := os.Lstat(p.path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &movedError{name, errDeleted}
		case err != nil:
			return &movedError{name, fmt.Errorf("can't be checked (%w)", errors.Unwrap(err))}
		case !os.SameFile(info, p.opened[i]):
			return &movedError{name, errReplaced}
		case suffix == "" && info.Size() == 0:
			return &movedError{name, errEmptied}
		}
	}
	return nil
}

// connector opens connections to the recorded files and to no others. SQLite opens
// files by name: it would write into another database, or create a log beside it.
type connector struct {
	sqldriver.Connector
	presence *presence
}

// connect returns a pool of connections to the recorded files.
func (p *presence) connect() (*sql.DB, error) {
	c, err := driver.NewConnector(dsn(p.path, connPragmas...))
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector{c, p}), nil
}

// Connect implements driver.Connector. It checks the files again after connecting,
// since the connection may have opened a file that replaced one meanwhile.
func (c connector) Connect(ctx context.Context) (sqldriver.Conn, error) {
	if err := c.presence.check(); err != nil {
		return nil, err
	}
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.presence.check(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
