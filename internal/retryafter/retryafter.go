// Package retryafter reads the Retry-After header of a response (RFC 9110,
// section 10.2.3).
package retryafter

import (
	"net/http"
	"strings"
	"time"
)

// Max is the longest wait that a response can ask for. A longer one is
// shortened to it.
const Max = time.Hour

// layouts are the date formats that are understood besides those of
// [http.ParseTime].
var layouts = [...]string{time.RFC1123Z, time.RFC3339}

// Wait returns how long a response asks its sender to wait, between 0 and Max,
// and whether it asks at all. Of several values the longest counts.
//
// A number of seconds may have any number of digits, a sign and a fraction,
// and may be followed by other text. What asks for a wait is never ignored
// because of its form: a number that is too large to be a duration means Max,
// and a fraction of a second is rounded up. A negative number and a date in
// the past ask for no wait.
func Wait(h http.Header, now time.Time) (wait time.Duration, asked bool) {
	for _, value := range h.Values("Retry-After") {
		if d, ok := parse(strings.TrimSpace(value), now); ok {
			wait, asked = max(wait, d), true
		}
	}
	return wait, asked
}

func parse(value string, now time.Time) (time.Duration, bool) {
	if at, err := http.ParseTime(value); err == nil {
		return until(at, now), true
	}
	for _, layout := range layouts {
		if at, err := time.Parse(layout, value); err == nil {
			return until(at, now), true
		}
	}
	return seconds(value)
}

// until returns the time from now to a date, between 0 and Max. The dates that
// are compared may be further apart than a duration can be.
func until(at, now time.Time) time.Duration {
	switch {
	case !at.After(now):
		return 0
	case at.After(now.Add(Max)):
		return Max
	}
	return at.Sub(now)
}

// seconds reads the number that a value begins with.
func seconds(value string) (time.Duration, bool) {
	negative := strings.HasPrefix(value, "-")
	value = strings.TrimLeft(value, "+-")
	whole := digits(value)
	fraction := ""
	if rest := value[len(whole):]; strings.HasPrefix(rest, ".") {
		fraction = digits(rest[1:])
	}
	switch {
	case whole == "" && fraction == "":
		return 0, false
	case negative:
		return 0, true
	}
	n := time.Duration(0)
	for i := range len(whole) {
		if n = 10*n + time.Duration(whole[i]-'0'); n >= Max/time.Second {
			return Max, true
		}
	}
	if strings.Trim(fraction, "0") != "" {
		n++
	}
	return n * time.Second, true
}

// digits returns the decimal digits that s begins with.
func digits(s string) string {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return s[:n]
}
