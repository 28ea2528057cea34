package edge

import (
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// TestTimestampFaults: a timestamp is read or has a fault of its own, and none of
// the formats that are near RFC 3339 is read.
func TestTimestampFaults(t *testing.T) {
	for member, want := range map[string]TimestampFault{
		`"timestamp":"2026-11-24T12:00:00Z"`:           "",
		`"timestamp":"2026-11-24T12:00:00.123Z"`:       "",
		`"timestamp":"2026-11-24T12:00:00.123456789Z"`: "",
		`"timestamp":"2026-11-24T12:00:00+02:00"`:      "",
		`"timestamp":"2026\u002d11-24T12:00:00Z"`:      "",
		`"other":1`:                                      TimestampMissing,
		`"Timestamp":"2026-11-24T12:00:00Z"`:             TimestampMissing,
		`"x":{"timestamp":"2026-11-24T12:00:00Z"}`:       TimestampMissing,
		`"timestamp":null`:                               TimestampType,
		`"timestamp":true`:                               TimestampType,
		`"timestamp":{"seconds":1764000000}`:             TimestampType,
		`"timestamp":["2026-11-24T12:00:00Z"]`:           TimestampType,
		`"timestamp":1764000000`:                         TimestampNumber,
		`"timestamp":1764000000.123456`:                  TimestampNumber,
		`"timestamp":0`:                                  TimestampNumber,
		`"timestamp":-1`:                                 TimestampNumber,
		`"timestamp":"1764000000"`:                       TimestampNumber,
		`"timestamp":"1764000000.5"`:                     TimestampNumber,
		`"timestamp":1764000000000`:                      TimestampMilliseconds,
		`"timestamp":1764000000000000000`:                TimestampMilliseconds,
		`"timestamp":"1764000000000"`:                    TimestampMilliseconds,
		`"timestamp":"2026-11-24T12:00:00"`:              TimestampZone,
		`"timestamp":"2026-11-24T12:00:00.123456"`:       TimestampZone,
		`"timestamp":"2026-11-24t12:00:00"`:              TimestampZone,
		`"timestamp":"2026-11-24t12:00:00Z"`:             TimestampCase,
		`"timestamp":"2026-11-24T12:00:00z"`:             TimestampCase,
		`"timestamp":"2026-11-24t12:00:00.5z"`:           TimestampCase,
		`"timestamp":""`:                                 TimestampFormat,
		`"timestamp":"2026-11-24 12:00:00Z"`:             TimestampFormat,
		`"timestamp":"2026-11-24T12:00:00+0200"`:         TimestampFormat,
		`"timestamp":"2026-11-24"`:                       TimestampFormat,
		`"timestamp":" 2026-11-24T12:00:00Z"`:            TimestampFormat,
		`"timestamp":"2026-11-24T12:00:60Z"`:             TimestampFormat,
		`"timestamp":"2026-13-24T12:00:00Z"`:             TimestampFormat,
		`"timestamp":"Tue, 24 Nov 2026 12:00:00 GMT"`:    TimestampFormat,
		`"timestamp":"0001-01-01T00:00:00Z"`:             TimestampFormat,
		`"timestamp":"` + strings.Repeat("1", 1e6) + `"`: TimestampFormat,
	} {
		doc, err := ecmajson.Parse([]byte(`{"id":"p1",`+member+`}`), ecmajson.Limits{}, NewSelector())
		if err != nil {
			t.Fatal(err)
		}
		e := ReadEnvelope(doc)
		if e.TimestampFault != want || e.Timestamp.IsZero() != (want != "") {
			t.Errorf("%.60s: read as %v with fault %q, want %q", member, e.Timestamp, e.TimestampFault, want)
		}
	}
}
