package prediction

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// timeLayout is the form of ECMAScript's toISOString, in UTC.
const timeLayout = "2006-01-02T15:04:05.000Z"

// FormatTime returns a time as YYYY-MM-DDTHH:mm:ss.sssZ. Years outside 0 to
// 9999, which have no such form, become the nearest time that has.
func FormatTime(t time.Time) string {
	t = t.UTC()
	switch {
	case t.Year() < 0:
		t = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 9999:
		t = time.Date(9999, 12, 31, 23, 59, 59, int(999*time.Millisecond), time.UTC)
	}
	return t.Format(timeLayout)
}

// normalTime returns an API's time in the form of FormatTime. APIs send three, six
// or nine digits of a second, or none, and offsets. A time that can't be read is
// returned as it is: it still may mean something to the receiver.
func normalTime(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.UTC().Year() < 0 || t.UTC().Year() > 9999 {
		return s
	}
	return FormatTime(t)
}

// running is the status of a prediction.started payload.
const running = "processing"

// tailStart and tailEnd are the end of a payload, around its timestamp.
const (
	tailStart = `},"timestamp":"`
	tailEnd   = `"}`
)

// Payload returns the webhook guide's WebhookPayload for event e (a set of one),
// with at as its timestamp:
//
//	{"event":…,"prediction":{"id":…,"version":…,"input":…,"output"?:…,"error"?:…,
//	 "status":…,"created_at":…,"started_at"?:…,"completed_at"?:…},"timestamp":…}
//
// Members with a question mark are absent when they have no value. Input is {}
// when there is none, version "", and created_at at. An error that is not a
// string is sent as its JSON text in a string. The payload of
// prediction.started shows the running prediction, whatever has become of it
// since: status processing, and no output, error or completed_at.
func (s *Snapshot) Payload(e event.Set, at time.Time) []byte {
	b := make([]byte, 0, 512+len(s.Version)+len(s.Input)+len(s.Output)+len(s.Error))
	member := func(name, value string) {
		b = append(b, name...)
		b = ecmajson.AppendString(b, value)
	}
	raw := func(name string, value []byte) {
		b = append(b, name...)
		b = append(b, value...)
	}
	input, created := s.Input, s.CreatedAt
	if input == nil {
		input = []byte("{}")
	}
	if created == "" {
		created = FormatTime(at)
	}
	started := e == event.Started

	member(`{"event":`, e.Name())
	member(`,"prediction":{"id":`, s.ID)
	member(`,"version":`, s.Version)
	raw(`,"input":`, input)
	if s.Output != nil && !started {
		raw(`,"output":`, s.Output)
	}
	if s.Error != nil && !started {
		if s.Error[0] == '"' {
			raw(`,"error":`, s.Error)
		} else {
			member(`,"error":`, string(s.Error))
		}
	}
	if started {
		member(`,"status":`, running)
	} else {
		member(`,"status":`, s.Status)
	}
	member(`,"created_at":`, created)
	if s.StartedAt != "" {
		member(`,"started_at":`, s.StartedAt)
	}
	if s.CompletedAt != "" && !started {
		member(`,"completed_at":`, s.CompletedAt)
	}
	b = append(b, tailStart...)
	b = append(b, FormatTime(at)...)
	return append(b, tailEnd...)
}
