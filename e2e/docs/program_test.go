package docs_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/caddyrun"
)

// startup is how long a program may take until it listens. A compiler may have
// to run first, on a busy machine.
const startup = 2 * time.Minute

// program is a documented program that runs, and what it printed.
type program struct {
	addr   string
	output *caddyrun.Logs
}

// runtimes make the command that runs a program's file, by its ending. They give
// what is missing where the command can't run.
var runtimes = map[string]func(dir, file, port string) (cmd *exec.Cmd, missing string){
	".mjs": func(dir, file, _ string) (*exec.Cmd, string) {
		modules, err := filepath.Abs(filepath.Join(root, "e2e", "delivery", "node_modules"))
		if err == nil {
			_, err = os.Stat(modules)
		}
		if err == nil {
			err = os.Symlink(modules, filepath.Join(dir, "node_modules"))
		}
		if err != nil {
			return nil, "`npm ci` in e2e/delivery"
		}
		return found("node", file)
	},
	".py": func(_, file, _ string) (*exec.Cmd, string) {
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(python, "-c", "import flask").Run() == nil {
				return exec.Command(python, file), ""
			}
		}
		return nil, "Python with Flask"
	},
	".go": func(dir, file, _ string) (*exec.Cmd, string) {
		binary := filepath.Join(dir, "program")
		if out, err := exec.Command("go", "build", "-o", binary, file).CombinedOutput(); err != nil {
			return nil, fmt.Sprintf("a program that builds: %v\n%s", err, out)
		}
		return exec.Command(binary), ""
	},
	".rb": func(_, file, _ string) (*exec.Cmd, string) {
		if exec.Command("ruby", "-e", `require "sinatra/base"; require "webrick"`).Run() != nil {
			return nil, "Ruby with Sinatra and WEBrick"
		}
		return found("ruby", file)
	},
	".php":  func(_, file, port string) (*exec.Cmd, string) { return found("php", "-S", "127.0.0.1:"+port, file) },
	".java": func(_, file, _ string) (*exec.Cmd, string) { return found("java", file) },
}

func found(name string, args ...string) (*exec.Cmd, string) {
	if _, err := exec.LookPath(name); err != nil {
		return nil, name
	}
	return exec.Command(name, args...), ""
}

// run writes a documented program to a file, runs it on a port of the test, and
// waits until it listens there.
func run(t *testing.T, env *caddyrun.Env, b block, file, port string) *program {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
		t.Fatal(err)
	}
	runtime := runtimes[filepath.Ext(file)]
	if runtime == nil {
		t.Fatalf("nothing runs %s", file)
	}
	number := fmt.Sprint(env.Port(port))
	cmd, missing := runtime(dir, path, number)
	if missing != "" {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s needs %s", file, missing)
		}
		t.Skipf("%s needs %s", file, missing)
	}
	p := &program{addr: env.Addr(port), output: caddyrun.NewLogs()}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PORT="+number, "WEBHOOK_SECRET="+secret, "NODE_ENV=production", "APP_ENV=production")
	cmd.Stdout, cmd.Stderr = p.output, p.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, ended := context.WithCancelCause(context.Background())
	go func() { ended(fmt.Errorf("it ended: %w", cmd.Wait())) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ctx.Done()
		if t.Failed() {
			t.Logf("%s printed:\n%s", file, p.output)
		}
	})
	deadline := time.NewTimer(startup)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("tcp", p.addr); err == nil {
			_ = conn.Close()
			return p
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s does not run: %v\n%s", file, context.Cause(ctx), p.output)
		case <-deadline.C:
			t.Fatalf("%s does not listen on %s\n%s", file, p.addr, p.output)
		}
	}
}
