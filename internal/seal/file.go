package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/caddy-replicate/replicate-webhook/internal/fsync"
)

// LoadOrCreateFile reads the key in the file at path, as LoadFile does. Where
// there is no file it makes one, and the directory around it. Of several
// processes that do so at once all get the same key, and a crash leaves the whole
// key or none.
func LoadOrCreateFile(path string) (Key, error) {
	key, err := LoadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := createFile(path); err != nil {
		return Key{}, fmt.Errorf("creating seal key %s: %w", path, err)
	}
	return LoadFile(path)
}

// LoadFile reads the key in the file at path: 32 bytes that no one but the
// file's owner may read. The error of a file that is not there is
// fs.ErrNotExist.
func LoadFile(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading seal key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("reading seal key: %w", err)
	}
	switch perm := info.Mode().Perm(); {
	case !info.Mode().IsRegular():
		return Key{}, fmt.Errorf("reading seal key %s: it is not a regular file", path)
	case perm&0o077 != 0 && runtime.GOOS != "windows":
		return Key{}, fmt.Errorf("reading seal key %s: its mode is %#o, others may read it: make that 0600, and replace the key if others did", path, perm)
	case info.Size() != KeySize:
		return Key{}, fmt.Errorf("reading seal key %s: it has %d bytes, not %d: restore it, or remove it and with it all that was sealed", path, info.Size(), KeySize)
	}
	b := make([]byte, KeySize)
	if _, err := io.ReadFull(f, b); err != nil {
		return Key{}, fmt.Errorf("reading seal key %s: %w", path, err)
	}
	return KeyFromBytes(b)
}

// createFile puts a new key at path unless there is one by now.
func createFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// CreateTemp opens with O_EXCL and mode 0600.
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var b [KeySize]byte
	rand.Read(b[:]) // never fails
	if _, err := f.Write(b[:]); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces the key of another starter.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsync.Dir(dir)
}
