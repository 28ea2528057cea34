package command

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
)

// sent is the result of send.
type sent struct {
	URL     string          `json:"url"`
	Body    json.RawMessage `json:"body"`
	Status  int             `json:"status"`
	Seconds float64         `json:"seconds"`
	// Duplicate: the receiver says that it had the event before.
	Duplicate bool   `json:"duplicate"`
	Response  string `json:"response"`
}

// sending holds the flags of send.
type sending struct {
	signing
	event, prediction, body       string
	input, output, failure, model string
	insecure                      bool
	timeout                       time.Duration
}

func sendCommand() *cobra.Command {
	var s sending
	cmd := &cobra.Command{
		Use:   "send <url>",
		Short: "Sends a signed webhook",
		Long: `
Sends one of the events of the webhook guide, signed, to any URL: to an app that
is being developed, or to the edge in front of it. The exit code is 4 unless the
response is 2xx.`,
		Example: `  caddy replicate-webhook send http://localhost:8080/webhooks/replicate
  caddy replicate-webhook send --event failed --error "out of memory" http://localhost:3000/webhooks/replicate`,
		Args: cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, t *terminal, args []string) error { return s.run(ctx, t, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&s.event, "event", "completed", "started, completed or failed")
	enumerate(cmd, "event", "started", "completed", "failed")
	f.StringVar(&s.prediction, "prediction", "", "The prediction's id (default: a random one)")
	f.StringVar(&s.model, "version", "local", "The model's version")
	f.StringVar(&s.input, "input", `{"prompt":"hello"}`, "The input, as JSON")
	f.StringVar(&s.output, "output", `"hello"`, "The output of a completed prediction, as JSON")
	f.StringVar(&s.failure, "error", "the model failed", "The error of a failed prediction")
	f.StringVar(&s.body, "body", "", "Send this file (- for standard input) in place of an event of the guide")
	files(cmd, "body")
	f.BoolVarP(&s.insecure, "insecure", "k", false, "Accept any certificate")
	f.DurationVar(&s.timeout, "timeout", 15*time.Second, "How long to wait for the response")
	s.add(cmd)
	addJSON(cmd)
	return cmd
}

func (s *sending) run(ctx context.Context, t *terminal, target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	body, name, err := s.payload(t)
	if err != nil {
		return err
	}
	h, err := s.headers(t, body)
	if err != nil {
		return err
	}
	h.Set("Content-Type", "application/json")
	if name != "" {
		h.Set("X-Replicate-Event", name)
	}
	client := newReceiverClient(s.insecure, s.timeout)
	defer client.CloseIdleConnections()
	done, err := post(ctx, client, http.MethodPost, target, h, body)
	if err != nil {
		return refused("sending to %s: %w", target, err)
	}
	if !t.document(done) {
		c := green
		if done.Status > 299 {
			c = red
		}
		text := fmt.Sprintf("%d %s", done.Status, http.StatusText(done.Status))
		if done.Duplicate {
			text += ", a duplicate"
		}
		facts := []fact{{"sent", cell{text: string(body)}}, {"response", cell{text, c}}, {"took", cell{text: fmt.Sprintf("%.3fs", done.Seconds)}}}
		if done.Response != "" {
			facts = append(facts, fact{"body", cell{done.Response, dim}})
		}
		t.facts(facts)
	}
	if done.Status < 200 || done.Status > 299 {
		return errRefused
	}
	return nil
}

// payload returns the body to send, and the event's name if it is one of the
// guide's.
func (s *sending) payload(t *terminal) ([]byte, string, error) {
	if s.body != "" {
		body, err := t.body([]string{s.body}, s.secrets...)
		return body, "", err
	}
	e, err := event.Parse(s.event)
	if err != nil {
		return nil, "", fmt.Errorf("--event: %w", err)
	}
	id := s.prediction
	if id == "" {
		id = "pred_" + strings.ToLower(rand.Text())
	}
	p := prediction.Snapshot{ID: id, Version: s.model, Status: "succeeded"}
	at := prediction.FormatTime(t.now)
	p.CreatedAt, p.StartedAt, p.CompletedAt = at, at, at
	if p.Input, err = canonical("input", s.input); err != nil {
		return nil, "", err
	}
	if e == event.Failed {
		p.Status, p.Error = "failed", ecmajson.AppendString(nil, s.failure)
	} else if p.Output, err = canonical("output", s.output); err != nil {
		return nil, "", err
	}
	return p.Payload(e, t.now), e.Name(), nil
}

// canonical reads a flag's JSON.
func canonical(flag, text string) ([]byte, error) {
	doc, err := ecmajson.Parse([]byte(text), ecmajson.Limits{}, nil)
	if err != nil {
		return nil, fmt.Errorf("--%s is not valid JSON: %w", flag, err)
	}
	return doc.Bytes(), nil
}

// shownResponse bounds the part of a response that is read.
const shownResponse = 4 << 10

// checkTarget returns an error for a URL that nothing can be sent to.
func checkTarget(target string) error {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("the URL must be absolute, such as http://localhost:8080/webhooks/replicate")
	}
	return nil
}

// newReceiverClient returns a client that follows no redirects.
func newReceiverClient(insecure bool, timeout time.Duration) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if insecure {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // asked for by name
	}
	return &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// post sends a body.
func post(ctx context.Context, c *http.Client, method, target string, h http.Header, body []byte) (sent, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return sent{}, err
	}
	req.Header = h
	began := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return sent{}, err
	}
	defer resp.Body.Close()
	response, err := io.ReadAll(io.LimitReader(resp.Body, shownResponse))
	out := sent{
		URL: target, Status: resp.StatusCode, Seconds: time.Since(began).Seconds(),
		Duplicate: resp.Header.Get("X-Replicate-Duplicate") == "true", Response: string(response),
	}
	if json.Valid(body) {
		out.Body = body
	}
	return out, err
}
