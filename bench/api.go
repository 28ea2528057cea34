package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// serveAPIArg makes this binary the imitation of a prediction API.
const serveAPIArg = "serve-api"

const (
	apiPath    = "/v1/*"
	createPath = "/v1/predictions"
)

// serveAPI responds to creates with Prefer: wait with predictions that have succeeded
// already, as the API does. It ends when its stdin does.
func serveAPI() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("listening", ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	api := fakeapi.New(fakeapi.Options{Output: `["https://files.example.com/out/6a1f0c3e/out-0.png"]`})
	srv := &http.Server{Handler: api, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(ln)
}

// api is the running imitation.
type api struct {
	*process
	addr string
}

func (l *lab) startAPI(ctx context.Context) (*api, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	p, addr, err := startListening(ctx, "the prediction API", exec.Command(self, serveAPIArg))
	if err != nil {
		return nil, err
	}
	l.onClose(p.stop)
	return &api{p, addr}, nil
}

func (a *api) url() string { return "http://" + a.addr + "/v1" }
