package event_test

import (
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// TestTimestampFaults: a timestamp is read or has a fault of its own, and none of
// the formats that are near RFC 3339 is read.
func TestTimestampFaults(t *testing.T) {
	for member, want := range map[string]event.TimestampFault{
		`"timestamp":"2026-11-24T12:00:00Z"`:           "",
		`"timestamp":"2026-11-24T12:00:00.123Z"`:       "",
		`"timestamp":"2026-11-24T12:00:00.123456789Z"`: "",
		`"timestamp":"2026-11-24T12:00:00+02:00"`:      "",
		`"timestamp":"2026\u002d11-24T12:00:00Z"`:      "",
		`"other":1`:                                      event.TimestampMissing,
		`"Timestamp":"2026-11-24T12:00:00Z"`:             event.TimestampMissing,
		`"x":{"timestamp":"2026-11-24T12:00:00Z"}`:       event.TimestampMissing,
		`"timestamp":null`:                               event.TimestampType,
		`"timestamp":true`:                               event.TimestampType,
		`"timestamp":{"seconds":1764000000}`:             event.TimestampType,
		`"timestamp":["2026-11-24T12:00:00Z"]`:           event.TimestampType,
		`"timestamp":1764000000`:                         event.TimestampNumber,
		`"timestamp":1764000000.123456`:                  event.TimestampNumber,
		`"timestamp":0`:                                  event.TimestampNumber,
		`"timestamp":-1`:                                 event.TimestampNumber,
		`"timestamp":"1764000000"`:                       event.TimestampNumber,
		`"timestamp":"1764000000.5"`:                     event.TimestampNumber,
		`"timestamp":1764000000000`:                      event.TimestampMilliseconds,
		`"timestamp":1764000000000000000`:                event.TimestampMilliseconds,
		`"timestamp":"1764000000000"`:                    event.TimestampMilliseconds,
		`"timestamp":"2026-11-24T12:00:00"`:              event.TimestampZone,
		`"timestamp":"2026-11-24T12:00:00.123456"`:       event.TimestampZone,
		`"timestamp":"2026-11-24t12:00:00"`:              event.TimestampZone,
		`"timestamp":"2026-11-24t12:00:00Z"`:             event.TimestampCase,
		`"timestamp":"2026-11-24T12:00:00z"`:             event.TimestampCase,
		`"timestamp":"2026-11-24t12:00:00.5z"`:           event.TimestampCase,
		`"timestamp":""`:                                 event.TimestampFormat,
		`"timestamp":"2026-11-24 12:00:00Z"`:             event.TimestampFormat,
		`"timestamp":"2026-11-24T12:00:00+0200"`:         event.TimestampFormat,
		`"timestamp":"2026-11-24"`:                       event.TimestampFormat,
		`"timestamp":" 2026-11-24T12:00:00Z"`:            event.TimestampFormat,
		`"timestamp":"2026-11-24T12:00:60Z"`:             event.TimestampFormat,
		`"timestamp":"2026-13-24T12:00:00Z"`:             event.TimestampFormat,
		`"timestamp":"Tue, 24 Nov 2026 12:00:00 GMT"`:    event.TimestampFormat,
		`"timestamp":"0001-01-01T00:00:00Z"`:             event.TimestampFormat,
		`"timestamp":"` + strings.Repeat("1", 1e6) + `"`: event.TimestampFormat,
	} {
		doc, err := ecmajson.Parse([]byte(`{"id":"p1",`+member+`}`), ecmajson.Limits{}, event.NewSelector())
		if err != nil {
			t.Fatal(err)
		}
		e := event.Of(doc)
		if e.TimestampFault != want || e.Timestamp.IsZero() != (want != "") {
			t.Errorf("%.60s: read as %v with fault %q, want %q", member, e.Timestamp, e.TimestampFault, want)
		}
	}
}
