package envelope_test

import (
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/envelope"
)

// TestTimestampFaults: a timestamp is read or has a fault of its own, and none of
// the formats that are near RFC 3339 is read.
func TestTimestampFaults(t *testing.T) {
	for member, want := range map[string]envelope.TimestampFault{
		`"timestamp":"2026-11-24T12:00:00Z"`:           "",
		`"timestamp":"2026-11-24T12:00:00.123Z"`:       "",
		`"timestamp":"2026-11-24T12:00:00.123456789Z"`: "",
		`"timestamp":"2026-11-24T12:00:00+02:00"`:      "",
		`"timestamp":"2026\u002d11-24T12:00:00Z"`:      "",
		`"other":1`:                                      envelope.TimestampMissing,
		`"Timestamp":"2026-11-24T12:00:00Z"`:             envelope.TimestampMissing,
		`"x":{"timestamp":"2026-11-24T12:00:00Z"}`:       envelope.TimestampMissing,
		`"timestamp":null`:                               envelope.TimestampType,
		`"timestamp":true`:                               envelope.TimestampType,
		`"timestamp":{"seconds":1764000000}`:             envelope.TimestampType,
		`"timestamp":["2026-11-24T12:00:00Z"]`:           envelope.TimestampType,
		`"timestamp":1764000000`:                         envelope.TimestampNumber,
		`"timestamp":1764000000.123456`:                  envelope.TimestampNumber,
		`"timestamp":0`:                                  envelope.TimestampNumber,
		`"timestamp":-1`:                                 envelope.TimestampNumber,
		`"timestamp":"1764000000"`:                       envelope.TimestampNumber,
		`"timestamp":"1764000000.5"`:                     envelope.TimestampNumber,
		`"timestamp":1764000000000`:                      envelope.TimestampMilliseconds,
		`"timestamp":1764000000000000000`:                envelope.TimestampMilliseconds,
		`"timestamp":"1764000000000"`:                    envelope.TimestampMilliseconds,
		`"timestamp":"2026-11-24T12:00:00"`:              envelope.TimestampZone,
		`"timestamp":"2026-11-24T12:00:00.123456"`:       envelope.TimestampZone,
		`"timestamp":"2026-11-24t12:00:00"`:              envelope.TimestampZone,
		`"timestamp":"2026-11-24t12:00:00Z"`:             envelope.TimestampCase,
		`"timestamp":"2026-11-24T12:00:00z"`:             envelope.TimestampCase,
		`"timestamp":"2026-11-24t12:00:00.5z"`:           envelope.TimestampCase,
		`"timestamp":""`:                                 envelope.TimestampFormat,
		`"timestamp":"2026-11-24 12:00:00Z"`:             envelope.TimestampFormat,
		`"timestamp":"2026-11-24T12:00:00+0200"`:         envelope.TimestampFormat,
		`"timestamp":"2026-11-24"`:                       envelope.TimestampFormat,
		`"timestamp":" 2026-11-24T12:00:00Z"`:            envelope.TimestampFormat,
		`"timestamp":"2026-11-24T12:00:60Z"`:             envelope.TimestampFormat,
		`"timestamp":"2026-13-24T12:00:00Z"`:             envelope.TimestampFormat,
		`"timestamp":"Tue, 24 Nov 2026 12:00:00 GMT"`:    envelope.TimestampFormat,
		`"timestamp":"0001-01-01T00:00:00Z"`:             envelope.TimestampFormat,
		`"timestamp":"` + strings.Repeat("1", 1e6) + `"`: envelope.TimestampFormat,
	} {
		doc, err := ecmajson.Parse([]byte(`{"id":"p1",`+member+`}`), ecmajson.Limits{}, envelope.NewSelector())
		if err != nil {
			t.Fatal(err)
		}
		e := envelope.Of(doc)
		if e.TimestampFault != want || e.Timestamp.IsZero() != (want != "") {
			t.Errorf("%.60s: read as %v with fault %q, want %q", member, e.Timestamp, e.TimestampFault, want)
		}
	}
}
