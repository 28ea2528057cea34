package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// express is the guide's receiver, which checks webhooks by itself.
type express struct {
	*process
	addr    string
	version string // of Node
}

// installWait bounds npm, which may wait for a network that is not there.
const installWait = 2 * time.Minute

// receiver starts the guide's receiver on first use. Where it can't be had, the
// reason is told in place of its rows: the other rows don't depend on it.
func (l *lab) receiver(ctx context.Context) (*express, string) {
	if l.express != nil || l.noExpress != "" {
		return l.express, l.noExpress
	}
	e, err := l.startExpress(ctx)
	if err != nil {
		l.noExpress = "left out: " + firstLine(err.Error())
		return nil, l.noExpress
	}
	l.express = e
	l.onClose(e.stop)
	return e, ""
}

func (l *lab) startExpress(ctx context.Context) (*express, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("there is no node")
	}
	version, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return nil, errors.New("node does not run")
	}
	dir := filepath.Join(l.root, "bench", "express")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "express")); errors.Is(err, fs.ErrNotExist) {
		if err := install(ctx, dir); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(node, "server.mjs")
	cmd.Dir = dir
	// production is what Express is deployed with: it skips its own debugging.
	cmd.Env = append(os.Environ(), secretEnv+"="+l.signer.secret, "NODE_ENV=production")
	p, addr, err := startListening(ctx, "the Express receiver", cmd)
	if err != nil {
		return nil, err
	}
	return &express{p, addr, strings.TrimSpace(string(version))}, nil
}

func install(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, installWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = dir
	contain(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci in bench/express failed: %w", err)
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
