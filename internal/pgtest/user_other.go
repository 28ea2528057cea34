//go:build !unix

package pgtest

import "os/exec"

// give makes a file the server's, who is this user.
func give(string) error { return nil }

// demote makes a command run as the server's user, who is this one.
func demote(*exec.Cmd) {}
