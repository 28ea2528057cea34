package docs_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// startup is how long a program may take until it listens. A compiler may have
// to run first, on a busy machine.
const startup = 2 * time.Minute

// program is a documented program that runs, and what it printed.
type program struct {
	addr   string
	output *caddyrun.Logs
}

// runtimes returns the command that runs a program's file, by its extension, or
// skips the test where it can't run.
var runtimes = map[string]func(t *testing.T, dir, file, port string) *exec.Cmd{
	".mjs": func(t *testing.T, dir, file, _ string) *exec.Cmd {
		delivery := filepath.Join(root, "e2e", "delivery")
		node := testenv.NeedNode(t, delivery)
		modules, err := filepath.Abs(filepath.Join(delivery, "node_modules"))
		if err == nil {
			err = os.Symlink(modules, filepath.Join(dir, "node_modules"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return exec.Command(node, file)
	},
	".py": func(t *testing.T, _, file, _ string) *exec.Cmd {
		return exec.Command(python(t, "flask", "Flask", "python3-flask"), file)
	},
	".go": func(t *testing.T, dir, file, _ string) *exec.Cmd {
		binary := filepath.Join(dir, "program")
		if out, err := exec.Command("go", "build", "-o", binary, file).CombinedOutput(); err != nil {
			t.Fatalf("building it: %v\n%s", err, out)
		}
		return exec.Command(binary)
	},
	".rb": func(t *testing.T, _, file, _ string) *exec.Cmd {
		if exec.Command("ruby", "-e", `require "sinatra/base"; require "webrick"`).Run() != nil {
			testenv.Skip(t, "Ruby with Sinatra and WEBrick", "apt-get install ruby-sinatra ruby-webrick")
		}
		return exec.Command("ruby", file)
	},
	".php": func(t *testing.T, _, file, port string) *exec.Cmd {
		return exec.Command(testenv.Need(t, "php", "apt-get install php-cli"), "-S", "127.0.0.1:"+port, file)
	},
	".java": func(t *testing.T, _, file, _ string) *exec.Cmd {
		return exec.Command(testenv.Need(t, "java", "apt-get install default-jdk-headless"), file)
	},
}

// frameworks returns the command that runs a file of a program by its name, where the
// extension alone does not say how.
var frameworks = map[string]func(t *testing.T, dir, port string) *exec.Cmd{
	"main.py": func(t *testing.T, _, port string) *exec.Cmd {
		return exec.Command(python(t, "fastapi, uvicorn", "FastAPI", "python3-fastapi uvicorn"), "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", port)
	},
	"views.py": func(t *testing.T, dir, port string) *exec.Cmd {
		for file, b := range programs(t, frameworksPage, "file") {
			if filepath.Ext(file) == ".py" {
				text := strings.Replace(b.text, "hooks.example.com", "127.0.0.1", 1)
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		return exec.Command(python(t, "django", "Django", "python3-django"), "-m", "django", "runserver", "--noreload", "--pythonpath", dir, "--settings", "settings", "127.0.0.1:"+port)
	},
	"route.mjs": func(t *testing.T, dir, _ string) *exec.Cmd {
		// Next.js calls the handler with the Request of the Web API.
		const server = `import http from "node:http";
import { POST } from "./route.mjs";
http.createServer(async (req, res) => {
  const init = { method: req.method, headers: req.headers, body: req, duplex: "half" };
  const response = await POST(new Request("http://" + req.headers.host + req.url, init));
  res.writeHead(response.status).end();
}).listen(process.env.PORT, "127.0.0.1");
`
		file := filepath.Join(dir, "server.mjs")
		if err := os.WriteFile(file, []byte(server), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command(testenv.Need(t, "node", "apt-get install nodejs"), file)
	},
}

// python returns the Python that has modules, or skips the test.
func python(t *testing.T, modules, what, packages string) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import "+modules).Run() == nil {
			return python
		}
	}
	testenv.Skip(t, "Python with "+what, "apt-get install "+packages)
	return ""
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
	number := fmt.Sprint(env.Port(port))
	var cmd *exec.Cmd
	if framework := frameworks[file]; framework != nil {
		cmd = framework(t, dir, number)
	} else if runtime := runtimes[filepath.Ext(file)]; runtime != nil {
		cmd = runtime(t, dir, path, number)
	} else {
		t.Fatalf("nothing runs %s", file)
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
