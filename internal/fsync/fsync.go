// Package fsync makes the names in a directory durable.
package fsync

import (
	"os"
	"runtime"
)

// Dir syncs a directory, so that a file that was created or renamed in it is
// found again after a power cut. Windows has no such call and needs none.
func Dir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
