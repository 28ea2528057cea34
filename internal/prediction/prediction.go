// Package prediction reads the prediction objects of a Replicate-style API and
// writes the payloads that announce them to webhook receivers.
//
// A payload is the WebhookPayload of the webhook guide. Its bytes are those
// that JSON.stringify(JSON.parse(payload)) returns, so that a receiver which
// verifies the signature over its re-serialized body succeeds whatever a model
// put into its output.
package prediction

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// IDPattern is the pattern of ids. Ids become parts of URL paths, so anything else
// is refused before.
const IDPattern = `^[A-Za-z0-9_-]{1,128}$`

// idPattern matches ids. In Go's syntax $ is the end of the text, not of a line.
var idPattern = regexp.MustCompile(IDPattern)

// ValidID reports whether id matches [IDPattern].
func ValidID(id string) bool { return len(id) <= 128 && idPattern.MatchString(id) }

var (
	// ErrNoObject: a text is not one JSON object.
	ErrNoObject = errors.New("it is not a JSON object")
	// ErrUnexpected: what should be a prediction is not one, or is another.
	ErrUnexpected = errors.New("it is not the prediction")
)

// Snapshot is a prediction as it was seen at one time. The raw values are in
// ECMAScript form and belong to the parsed text: they must not be changed.
type Snapshot struct {
	// ID and Status are empty when the object has none, or has something
	// other than a string there.
	ID     string
	Status string
	// Version is the model's version, empty when the object has none.
	Version string
	// Input, Output and Error are JSON, nil when missing or null.
	Input  []byte
	Output []byte
	Error  []byte
	// Logs is JSON, nil when missing or null.
	Logs []byte
	// CreatedAt, StartedAt and CompletedAt are as in the payload: in the
	// form YYYY-MM-DDTHH:mm:ss.sssZ, or what the API sent when that is no
	// time. Empty when missing.
	CreatedAt   string
	StartedAt   string
	CompletedAt string
	// Webhook is the URL of the API's own webhook, empty when the object has
	// none.
	Webhook string
	// Source is the text that was read.
	Source []byte
}

// The paths of fields, in its order.
const (
	pathID = iota
	pathStatus
	pathVersion
	pathInput
	pathOutput
	pathError
	pathCreatedAt
	pathStartedAt
	pathCompletedAt
	pathWebhook
	pathLogs
)

var fields = ecmajson.NewSelector(
	[]string{"id"},
	[]string{"status"},
	[]string{"version"},
	[]string{"input"},
	[]string{"output"},
	[]string{"error"},
	[]string{"created_at"},
	[]string{"started_at"},
	[]string{"completed_at"},
	[]string{"webhook"},
	[]string{"logs"},
)

// limits leave room for the level that a payload puts around a prediction, so
// that what is read here can be read back from the payload.
var limits = ecmajson.Limits{MaxDepth: ecmajson.DefaultMaxDepth - 1, MaxNumber: 1 << 16}

// Parse reads a prediction object. Of repeated members the last counts, as it
// does for JSON.parse. The snapshot keeps body, or a copy of it.
//
// The error is ErrNoObject or one of package ecmajson. Missing members are no
// error.
func Parse(body []byte) (*Snapshot, error) {
	s, _, err := parse(body, limits)
	return s, err
}

// ParseDocument is Parse that also returns the document with its members, for
// [ecmajson.Document.Edit].
func ParseDocument(body []byte) (*Snapshot, *ecmajson.Document, error) {
	l := limits
	l.Members = true
	return parse(body, l)
}

func parse(body []byte, l ecmajson.Limits) (*Snapshot, *ecmajson.Document, error) {
	d, err := ecmajson.Parse(body, l, fields)
	if err != nil {
		return nil, nil, fmt.Errorf("reading prediction: %w", err)
	}
	if d.Kind() != ecmajson.Object {
		return nil, nil, fmt.Errorf("reading prediction: %w", ErrNoObject)
	}
	text := func(path int) string {
		s, _ := d.Value(path).Text()
		return s
	}
	return &Snapshot{
		ID:          text(pathID),
		Status:      text(pathStatus),
		Version:     text(pathVersion),
		Input:       value(d, pathInput),
		Output:      value(d, pathOutput),
		Error:       value(d, pathError),
		CreatedAt:   normalTime(text(pathCreatedAt)),
		StartedAt:   normalTime(text(pathStartedAt)),
		CompletedAt: normalTime(text(pathCompletedAt)),
		Webhook:     text(pathWebhook),
		Logs:        value(d, pathLogs),
		Source:      body,
	}, d, nil
}

// ParseID is Parse for a body that should be the prediction with the given id.
// Every error is ErrUnexpected.
func ParseID(body []byte, id string) (*Snapshot, error) {
	s, err := Parse(body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnexpected, err)
	case s.ID != id:
		return nil, fmt.Errorf("%w: it has another id", ErrUnexpected)
	}
	return s, nil
}

// value returns the ECMAScript form of a value. A number beyond the largest double
// has the form null, and is treated as what its receivers will see.
func value(d *ecmajson.Document, path int) []byte {
	raw := d.Value(path).Raw()
	if string(raw) == "null" {
		return nil
	}
	return raw
}
