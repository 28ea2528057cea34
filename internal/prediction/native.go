package prediction

import (
	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// The members of the API itself for its own webhook.
const (
	MemberWebhook = "webhook"
	MemberFilter  = "webhook_events_filter"
)

// NativePayload returns the body of a webhook as the API itself would send it: the
// prediction's own bytes, in which the members for the webhook, where there are any,
// have the client's values. The URL is null where it is empty, and the filter is left
// out where it is nil.
//
// A snapshot that was not read from a text, of a prediction that the API knows no
// more, becomes one.
func (s *Snapshot) NativePayload(url string, filter []string) []byte {
	source := s.Source
	if source == nil {
		source = s.Object()
	}
	_, d, err := ParseDocument(source)
	if err != nil {
		return source // as a text that was read is not
	}
	return d.Edit(NativeMembers(url, filter), nil)
}

// Object returns the prediction as the API shows it, as far as the snapshot has it.
func (s *Snapshot) Object() []byte {
	var b []byte
	text := func(name, value string) {
		b = append(b, name...)
		if value == "" {
			b = append(b, "null"...)
			return
		}
		b = ecmajson.AppendString(b, value)
	}
	raw := func(name string, value []byte) {
		b = append(b, name...)
		if value == nil {
			value = []byte("null")
		}
		b = append(b, value...)
	}
	text(`{"id":`, s.ID)
	text(`,"version":`, s.Version)
	raw(`,"input":`, s.Input)
	raw(`,"output":`, s.Output)
	raw(`,"error":`, s.Error)
	text(`,"status":`, s.Status)
	text(`,"created_at":`, s.CreatedAt)
	text(`,"started_at":`, s.StartedAt)
	text(`,"completed_at":`, s.CompletedAt)
	return append(b, '}')
}

// NativeMembers returns an edit of a prediction's object after which the members for
// the API's own webhook have the client's values.
func NativeMembers(url string, filter []string) func(key string) (value []byte, keep bool) {
	return func(key string) ([]byte, bool) {
		switch key {
		case MemberWebhook:
			return AppendURL(nil, url), true
		case MemberFilter:
			return AppendFilter(nil, filter), filter != nil
		}
		return nil, true
	}
}

// AppendURL appends a URL as a string, null where it is empty.
func AppendURL(b []byte, url string) []byte {
	if url == "" {
		return append(b, "null"...)
	}
	return ecmajson.AppendString(b, url)
}

// AppendFilter appends a filter as an array.
func AppendFilter(b []byte, filter []string) []byte {
	b = append(b, '[')
	for i, name := range filter {
		if i > 0 {
			b = append(b, ',')
		}
		b = ecmajson.AppendString(b, name)
	}
	return append(b, ']')
}
