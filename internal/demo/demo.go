// Package demo shows what the plugin does in one process: a real Caddy with the
// real modules, between a simulated prediction API and an app on loopback.
//
// What it prints is what happened. A step that does not come true ends it with
// an error.
package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// Options say how to run.
type Options struct {
	// Once ends after the last step. Otherwise there is a little traffic to
	// look at until the context ends.
	Once bool
	// Color uses escape sequences of terminals.
	Color bool
	// Width is that of the output's lines. Default: 80.
	Width int
}

// patience is the time that a step of a second or two may take.
const patience = time.Minute

// Run runs the demonstration. It is over when the context ends, or after the
// last step with Once. It needs Caddy to itself: nothing else may run one in
// this process.
func Run(ctx context.Context, out io.Writer, o Options) (err error) {
	dir, err := os.MkdirTemp("", "replicate-webhook-demo-")
	if err != nil {
		return err
	}
	s := &site{dir: dir, webhook: "/webhooks/replicate", inbox: "/webhooks/inbox"}
	secret, inboxSecret := newSecret(), newSecret()
	if err := s.writeSecrets(secret, inboxSecret); err != nil {
		return err
	}
	a := newApp(secret)
	api := fakeapi.New(fakeapi.Options{Run: time.Second, Output: `["https://replicate.delivery/demo/landscape.png"]`})
	var stopApp, stopAPI func()
	if s.app, stopApp, err = listen(a); err != nil {
		return err
	}
	defer stopApp()
	if s.api, stopAPI, err = listen(api); err != nil {
		return err
	}
	defer stopAPI()
	if s.gone, err = unused(); err != nil {
		return err
	}
	if s.late, err = unused(); err != nil {
		return err
	}
	if err := s.startCaddy(); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	d := &demonstration{
		site: s, app: a, api: api, secret: secret, inboxSecret: inboxSecret, once: o.Once,
		client: &http.Client{Transport: transport, Timeout: patience},
		print:  printer{out: out, color: o.Color, width: cmp.Or(o.Width, 80)},
	}
	err = d.run(ctx)
	if d.stopLate != nil {
		d.stopLate()
	}
	if stopErr := caddy.Stop(); err == nil {
		err = stopErr
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w\nCaddy's log is %s", err, s.log())
	}
	if !o.Once {
		err = nil // being asked to end is how it ends
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// demonstration is a run.
type demonstration struct {
	*site
	app    *app
	api    *fakeapi.API
	client *http.Client
	// secret and inboxSecret are what senders sign with.
	secret, inboxSecret string
	once                bool
	print               printer

	// body and signature are the sender's webhook.
	body      []byte
	signature string
	// prediction is the id of the one that the client created.
	prediction string
	// stopLate stops the app behind the inbox, once it runs.
	stopLate func()
}

// run goes through the steps.
func (d *demonstration) run(ctx context.Context) error {
	d.introduce()
	for _, step := range []func(context.Context) error{d.genuine, d.duplicate, d.forgery, d.outage, d.outbound} {
		if err := d.step(ctx, step); err != nil {
			return err
		}
	}
	if err := d.step(ctx, d.dashboard); err != nil || d.once {
		return err
	}
	return d.traffic(ctx)
}

func (d *demonstration) step(ctx context.Context, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return step(ctx)
}

func newSecret() string { return "whsec_" + base64.StdEncoding.EncodeToString(random(24)) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
