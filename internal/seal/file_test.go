package seal

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestLoadOrCreateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "seal.key")
	first, err := LoadOrCreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || info.Size() != KeySize {
		t.Errorf("mode %v, %d bytes", info.Mode(), info.Size())
	}
	again, err := LoadOrCreateFile(path)
	if err != nil || *again.k.bytes != *first.k.bytes {
		t.Errorf("another key the second time: %v", err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestStartersAgree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	keys := make([]Key, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = LoadOrCreateFile(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k.k != nil && *k.k.bytes != *keys[0].k.bytes {
			t.Fatal("two keys")
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int
		mode  os.FileMode
		want  string
	}{
		{"others may read it", KeySize, 0o644, "0644"},
		{"the group may write it", KeySize, 0o620, "others may"},
		{"too short", KeySize - 1, 0o600, "31 bytes"},
		{"empty", 0, 0o600, "0 bytes"},
		{"too long", KeySize + 1, 0o600, "33 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := os.WriteFile(path, []byte(strings.Repeat("S", c.bytes)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateFile(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SSS") {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := LoadOrCreateFile(t.TempDir()); err == nil {
		t.Error("a folder is a key")
	}
}
