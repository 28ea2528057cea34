package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// variables matches what shells expand at the beginning of a path's element,
// $HOME and %APPDATA%, or anywhere, ${HOME}. One of the groups is the name.
var variables = regexp.MustCompile(`(?:^|[/\\])(?:\$([A-Za-z_]\w*)|%([A-Za-z_]\w*)%)|\$\{([A-Za-z_]\w*)`)

// checkName refuses names that other programs give a meaning to and the file
// system does not: the database would be a file of that very name.
func checkName(path string) error {
	variable := variables.FindStringSubmatch(path)
	switch {
	case path == "":
		return errors.New("has no name: name a file, such as /var/lib/caddy/webhook.db")
	case strings.ContainsRune(path, 0):
		return errors.New("has a zero byte in its name: name a file")
	case strings.HasPrefix(path, "~"):
		return errors.New("begins with ~, which only a shell expands: write the directory out, or {env.HOME}")
	case variable != nil:
		name := strings.Join(variable[1:], "")
		return fmt.Errorf("holds the shell's variable %s, which nothing expands here: write {env.%s}", name, name)
	case strings.HasPrefix(path, "file:"):
		return errors.New("is a URI: name a file, without file: and without parameters")
	case strings.HasPrefix(filepath.Base(path), ":memory:"):
		return errors.New("would be in memory alone, where an acknowledged event is lost with the process: name a file")
	case os.IsPathSeparator(path[len(path)-1]):
		return errors.New("is the name of a directory: name a file in it")
	}
	return nil
}

// locate returns the path of the database without symbolic links, so that two
// names of one file are one resource. It refuses what is not a file that one
// process can have to itself. It opens nothing and changes nothing.
func locate(path string) (string, error) {
	if err := checkName(path); err != nil {
		return "", err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if path, err = followLinks(path); err != nil {
		return "", err
	}
	for _, suffix := range companions {
		if err := checkFile(path+suffix, suffix == ""); err != nil {
			return "", err
		}
	}
	return path, nil
}

// followLinks resolves the part of the path that exists. A link that leads to
// nothing is refused, because creating the file would put it in the link's own
// place, on another volume than the one that was meant.
func followLinks(path string) (string, error) {
	missing := ""
	for {
		resolved, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(resolved, missing), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("can't be looked for: %w", err)
		}
		if _, err := os.Lstat(path); err == nil {
			target, _ := os.Readlink(path)
			return "", fmt.Errorf("leads over the symbolic link %s to %s, which does not exist: mount or create the target, or name the file itself", path, target)
		}
		parent := filepath.Dir(path)
		if parent == path {
			return "", err
		}
		path, missing = parent, filepath.Join(filepath.Base(path), missing)
	}
}

// checkFile refuses what is there under a file's name and can't be used. The
// database must have no other name: under that one a second process would find
// no lock, and open it too.
func checkFile(name string, database bool) error {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("can't be looked at: %w", err)
	case info.IsDir() && database:
		return errors.New("is a directory: name a file in it")
	case !info.Mode().IsRegular():
		return fmt.Errorf("can't be used: %s is not a regular file but %s", name, kindOf(info.Mode()))
	case database && links(info) > 1:
		return fmt.Errorf("has %d names (hard links), under each of which a process could open it: copy the file, or remove the other names", links(info))
	}
	return nil
}

// kindOf names what a file is that is not a regular one.
func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
