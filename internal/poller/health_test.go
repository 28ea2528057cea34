package poller

import (
	"fmt"
	"testing"
	"time"
)

func TestHealthOfManyTokensIsBounded(t *testing.T) {
	var a apiHealth
	now := time.Unix(1_700_000_000, 0)
	for i := range 3 * maxEntries {
		who := newAllowance("https://api.test/v1", fmt.Sprint(i))
		if !a.begin(who, now, false).Equal(now) {
			t.Fatal("a healthy token has to wait")
		}
		a.end(who, now)
		now = now.Add(time.Millisecond)
	}
	if len(a.entries) > maxEntries+1 {
		t.Errorf("%d entries are kept", len(a.entries))
	}
}
