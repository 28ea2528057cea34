//go:build !unix

package pgtest

import "os/exec"

// give and demote do nothing: the server runs as this user.
func give(string) error { return nil }

func demote(*exec.Cmd) {}
