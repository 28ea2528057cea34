//go:build unix

package pgtest

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// credential returns the user that the server runs as: nil for this user,
// unless that is root.
func credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID == nil && errGID == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}

// give changes the owner of a file to the server's user.
func give(path string) error {
	id := credential()
	if id == nil {
		return nil
	}
	return os.Chown(path, int(id.Uid), int(id.Gid))
}

// demote has a command run as the server's user.
func demote(cmd *exec.Cmd) {
	if id := credential(); id != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: id}
	}
}
