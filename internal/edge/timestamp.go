package edge

import (
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// TimestampFault is a short stable label for what is wrong with a body's
// timestamp.
type TimestampFault string

// The faults of a timestamp.
const (
	TimestampMissing      TimestampFault = "missing"      // the body has none
	TimestampType         TimestampFault = "type"         // neither a string nor a number
	TimestampNumber       TimestampFault = "number"       // Unix seconds
	TimestampMilliseconds TimestampFault = "milliseconds" // Unix milliseconds or finer
	TimestampZone         TimestampFault = "zone"         // a date and time without a time zone
	TimestampCase         TimestampFault = "case"         // t or z in lower case
	TimestampFormat       TimestampFault = "format"       // any other text
)

// String returns what is wrong in words.
func (f TimestampFault) String() string {
	switch f {
	case TimestampMissing:
		return "is missing"
	case TimestampType:
		return "is not a string"
	case TimestampNumber:
		return "is a number, as of Unix seconds"
	case TimestampMilliseconds:
		return "is a number, as of Unix milliseconds"
	case TimestampZone:
		return "has no time zone"
	case TimestampCase:
		return "has a lower-case t or z"
	case TimestampFormat:
		return "is not in RFC 3339 format"
	}
	return "is valid"
}

const (
	// maxTimestamp is the longest text that is parsed as a time.
	maxTimestamp = 64
	// secondsDigits is how many digits Unix seconds have for the next
	// thousands of years. Milliseconds have had 12 since 1973, and 13 since
	// 2001.
	secondsDigits = 11
)

// parseTimestamp parses a body's timestamp, which must be in RFC 3339 format, as
// the guide's payload and ECMAScript's toISOString are. A time without a zone is
// not valid: it means different moments on different machines.
func parseTimestamp(v ecmajson.Value) (time.Time, TimestampFault) {
	switch v.Kind() {
	case ecmajson.Missing:
		return time.Time{}, TimestampMissing
	case ecmajson.Number:
		return time.Time{}, numberFault(string(v.Raw()))
	case ecmajson.String:
	default:
		return time.Time{}, TimestampType
	}
	if len(v.Raw()) > 6*maxTimestamp {
		return time.Time{}, TimestampFormat // no escapes make it short enough
	}
	text, _ := v.Text()
	t, err := time.Parse(time.RFC3339, text)
	if err == nil {
		if t.IsZero() {
			return t, TimestampFormat // the zero time stands for none
		}
		return t, ""
	}
	if len(text) > maxTimestamp {
		return time.Time{}, TimestampFormat
	}
	return time.Time{}, textFault(text)
}

// numberFault returns the fault of a number: it distinguishes seconds from
// milliseconds by the digits before the point.
func numberFault(text string) TimestampFault {
	digits, _, _ := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	if len(digits) > secondsDigits {
		return TimestampMilliseconds
	}
	return TimestampNumber
}

// textFault returns the fault of a text that is not in RFC 3339 format.
func textFault(text string) TimestampFault {
	upper := strings.ToUpper(text)
	is := func(text string) bool {
		_, err := time.Parse(time.RFC3339, text)
		return err == nil
	}
	switch {
	case is(upper):
		return TimestampCase
	case is(upper + "Z"):
		return TimestampZone
	case text != "" && strings.Trim(text, "0123456789.") == "":
		return numberFault(text)
	}
	return TimestampFormat
}
