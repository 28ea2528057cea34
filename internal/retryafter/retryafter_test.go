package retryafter

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWait(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const none = -1
	for value, want := range map[string]time.Duration{
		"0":                               0,
		"7":                               7 * time.Second,
		"007":                             7 * time.Second,
		" 5 ":                             5 * time.Second,
		"+5":                              5 * time.Second,
		"5s":                              5 * time.Second,
		"120, 120":                        2 * time.Minute,
		"1.5":                             2 * time.Second,
		"1.0":                             time.Second,
		".25":                             time.Second,
		"3599":                            time.Hour - time.Second,
		"3600":                            time.Hour,
		"86400":                           time.Hour,
		"9999999999":                      time.Hour,
		"99999999999":                     time.Hour,
		"18446744073709551616":            time.Hour,
		"1" + strings.Repeat("0", 4000):   time.Hour,
		strings.Repeat("0", 4000) + "9":   9 * time.Second,
		"-5":                              0,
		"-99999999999999999999":           0,
		"":                                none,
		"soon":                            none,
		"-":                               none,
		".":                               none,
		"\u0661\u0662":                    none, // digits, but not of ASCII
		"Sun, 01 Mar 2026 12:00:30 GMT":   30 * time.Second,
		"Sun, 01 Mar 2026 13:00:30 +0100": 30 * time.Second,
		"2026-03-01T12:00:30Z":            30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT":   0,
		"Thu, 01 Jan 1970 00:00:00 GMT":   0,
		"Mon, 01 Jan 0001 00:00:00 GMT":   0,
		"Mon, 02 Mar 2026 12:00:00 GMT":   time.Hour,
		"Sunday, 01-Mar-26 12:01:00 GMT":  time.Minute,
		"Sun Mar  1 12:01:00 2026":        time.Minute,
		"Sun, 01 Mar 2026 12:59:59 GMT":   time.Hour - time.Second,
		"Sun, 01 Mar 2026 13:00:01 GMT":   time.Hour,
		"2026-03-01T13:30:00Z":            time.Hour,
		"Fri, 31 Dec 9999 23:59:59 GMT":   time.Hour,
	} {
		wait, asked := Wait(http.Header{"Retry-After": {value}}, now)
		if want == none {
			if wait != 0 || asked {
				t.Errorf("%.40q asks for %v, %v", value, wait, asked)
			}
			continue
		}
		if wait != want || !asked {
			t.Errorf("%.40q asks for %v, %v, want %v", value, wait, asked, want)
		}
	}
}

func TestTheLongestOfSeveralCounts(t *testing.T) {
	wait, asked := Wait(http.Header{"Retry-After": {"3", "soon", "8", "2"}}, time.Unix(0, 0))
	if wait != 8*time.Second || !asked {
		t.Errorf("got %v, %v", wait, asked)
	}
	if wait, asked := Wait(http.Header{}, time.Unix(0, 0)); wait != 0 || asked {
		t.Errorf("without the header: %v, %v", wait, asked)
	}
}

func FuzzWait(f *testing.F) {
	for _, s := range []string{"1", "1.5", "-1", "Sun, 01 Mar 2026 12:00:30 GMT", "99999999999999999999999"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		if wait, asked := Wait(http.Header{"Retry-After": {value}}, now); wait < 0 || wait > Max || wait > 0 && !asked {
			t.Errorf("%q asks for %v, %v", value, wait, asked)
		}
	})
}
