// Package duration reads durations in the JSON of a configuration the way Caddy
// reads them, for packages that do not import Caddy.
package duration

import (
	"encoding/json"
	"regexp"
	"strconv"
	"time"
)

// Duration is a time.Duration that is a string such as "10s" or "1d" in JSON, or
// a number of nanoseconds.
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '"' {
		return json.Unmarshal(data, (*time.Duration)(d))
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := Parse(text)
	*d = Duration(parsed)
	return err
}

// String returns the duration as time.Duration formats it.
func (d Duration) String() string { return time.Duration(d).String() }

var days = regexp.MustCompile(`[-+0-9.]+d`)

// Parse parses what time.ParseDuration does, with the unit d for 24 hours.
func Parse(s string) (time.Duration, error) {
	return time.ParseDuration(days.ReplaceAllStringFunc(s, func(part string) string {
		n, err := strconv.ParseFloat(part[:len(part)-1], 64)
		if err != nil {
			return part
		}
		return strconv.FormatFloat(24*n, 'f', -1, 64) + "h"
	}))
}
