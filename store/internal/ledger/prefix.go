package ledger

import (
	"math"
	"strconv"
	"strings"
)

// Numbers is a range of numbers: those from From on and below To.
type Numbers struct{ From, To int64 }

// IDsBeginning returns the numbers of the deliveries and events whose IDs may begin
// with a text, and whether it is the beginning of such an ID at all. A number is a few
// digits, so that the ranges are few.
func IDsBeginning(text string) (ranges []Numbers, ok bool) {
	number, low, high := text, int64(0), int64(FirstEvent)
	for _, kind := range []struct {
		prefix    string
		low, high int64
	}{{deliveryPrefix, 1, FirstEvent}, {eventPrefix, FirstEvent, math.MaxInt64}} {
		if rest, found := strings.CutPrefix(text, kind.prefix); found {
			number, low, high, ok = rest, kind.low, kind.high, true
		}
	}
	if !ok {
		return nil, false
	}
	number, nonce, whole := strings.Cut(number, "_")
	n, err := strconv.ParseInt(number, 36, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 36) != number || strings.Trim(nonce, "0123456789abcdef") != "" {
		return nil, false
	}
	for from, to := n, n+1; ; from, to = from*36, to*36 {
		if r := (Numbers{max(from, low), min(to, high)}); r.From < r.To {
			ranges = append(ranges, r)
		}
		if whole || from >= high || to > math.MaxInt64/36 {
			return ranges, true
		}
	}
}
