package notice

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Kind is what an operator is told of.
type Kind string

// The kinds.
const (
	// Failed: deliveries that will not be tried again. The subject is an endpoint.
	Failed Kind = "failed"
	// EndpointOpen and EndpointClosed: the breaker of an endpoint.
	EndpointOpen   Kind = "endpoint_open"
	EndpointClosed Kind = "endpoint_closed"
	// InboxFailed: events that their app did not accept in time. The subject is a
	// scope.
	InboxFailed Kind = "inbox_failed"
	// Rejected: requests that the edge rejected. The subject is the reason.
	Rejected Kind = "rejected"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Failed, EndpointOpen, EndpointClosed, InboxFailed, Rejected} }

// ofEndpoint reports whether the subject is an endpoint.
func (k Kind) ofEndpoint() bool { return k == Failed || k == EndpointOpen || k == EndpointClosed }

// endpointOf returns the endpoint of a URL.
func endpointOf(url string) string { return store.EndpointOf(url) }

// Message is the body of a message. It holds no payload and no secret.
type Message struct {
	// Text says all in a line, for chat tools, which show this member.
	Text string `json:"text"`
	What Kind   `json:"what"`
	// Endpoint is scheme, host and port of a receiver, Scope that of an inbox, and
	// Reason an outcome of requests. One of them is set, unless it happened to more
	// of them than are told apart.
	Endpoint string `json:"endpoint,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Count is how often it happened since the message before.
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Example is the last delivery, event or sender's address.
	Example string `json:"example,omitempty"`
	// Status and Error are those of the example.
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint"`
}

// message returns the message of what a window has gathered.
func (w *window) message(s subject) Message {
	m := Message{
		What: s.what, Count: w.count, First: w.first.UTC(), Last: w.last.UTC(),
		Example: w.example.Example, Status: w.example.Status, Error: w.example.Error,
	}
	name := s.name
	switch {
	case s.what == InboxFailed:
		m.Scope = name
	case s.what == Rejected:
		m.Reason = name
	default:
		m.Endpoint = name
	}
	of := func(one, many, several string) string {
		if name == "" {
			name = several
		}
		if w.count == 1 {
			return "1 " + one
		}
		return fmt.Sprint(w.count, " ", many)
	}
	times := func(says string) string {
		n := of("time", "times", "further endpoints")
		if w.count > 1 {
			says += " (" + n + ")"
		}
		return name + says
	}
	switch s.what {
	case Failed:
		n := of("delivery", "deliveries", "further endpoints")
		m.Text = fmt.Sprintf("%s to %s failed and will not be tried again", n, name)
		m.Hint = "caddy replicate-webhook deliveries show " + m.Example
	case EndpointOpen:
		m.Text = times(" does not respond: its deliveries wait")
		m.Hint = "caddy replicate-webhook endpoints"
	case EndpointClosed:
		m.Text = times(" responds again: its deliveries go on")
		m.Hint = "caddy replicate-webhook deliveries --state failed"
	case InboxFailed:
		n := of("event", "events", "further scopes")
		m.Text = fmt.Sprintf("%s of inbox %s not accepted by the app in time", n, name)
		m.Hint = "caddy replicate-webhook events show " + m.Example
	case Rejected:
		n := of("request", "requests", "several reasons")
		m.Text = fmt.Sprintf("%s rejected at the edge: %s", n, name)
		m.Hint = "docs/troubleshooting.md says what each reason means"
	}
	if m.Status != 0 {
		m.Text += fmt.Sprintf("; last status %d", m.Status)
	}
	if m.Error != "" {
		m.Text += "; " + m.Error
	}
	if m.Example != "" {
		m.Text += "; last " + m.Example
	}
	m.Text = escape.Replace(m.Text + ". " + m.Hint)
	return m
}

// escape writes what chat tools take for mentions and links as text.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
