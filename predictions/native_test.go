package predictions

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// TestMembersOfBothWaysToAsk: where both are captured, what belongs to the one is not
// dropped because the other is used, and nothing of this server's is passed to the API.
func TestMembersOfBothWaysToAsk(t *testing.T) {
	both := append(append(memberSet(nil), nativeMembers...), ownMembers...)
	all := func(event.Set) bool { return true }
	for members, want := range map[string]string{
		`"test_mode":true`:                    "test_mode needs a webhook_url to send its events to",
		`"test_mode":"yes"`:                   `test_mode must be true, false, "prediction.completed" or "prediction.failed"`,
		`"webhook_events":["completed"]`:      "webhook_events needs a webhook_url",
		`"webhook_url":null`:                  "",
		`"test_mode":false`:                   "",
		`"webhook_events":null`:               "",
		`"webhook_url":null,"test_mode":null`: "",
	} {
		body := `{"webhook":"https://x","input":{},` + members + `}`
		h, err := both.readCreate([]byte(body), newFake().CheckURL, all)
		if want != "" {
			var p *problem
			if !errors.As(err, &p) || p.status != http.StatusUnprocessableEntity || p.detail != want {
				t.Errorf("%s: got %+v, %v, want 422 with %q", body, h, err, want)
			}
			continue
		}
		if err != nil || !h.native {
			t.Errorf("%s: got %+v, %v", body, h, err)
		} else if got := string(h.cut("")); got != `{"input":{}}` {
			t.Errorf("%s: the API gets %s", body, got)
		}
		// Where webhook_url is not captured, these members are the API's.
		if h, err := nativeMembers.readCreate([]byte(body), newFake().CheckURL, all); err != nil || string(h.cut("")) != `{"input":{},`+members+`}` {
			t.Errorf("%s: got %+v, %v", body, h, err)
		}
	}
}

// TestProblemsNameTheirMember: the log says which member a refusal is about.
func TestProblemsNameTheirMember(t *testing.T) {
	for body, want := range map[string]string{
		`{"webhook":"https://x","webhook_events_filter":"start"}`:  nativeEvents,
		`{"webhook_url":"https://x","webhook_events":"completed"}`: memberEvents,
		`{"webhook_url":"https://x","test_mode":1}`:                memberTest,
		`{"webhook":"ftp://x"}`:                                    nativeURL,
	} {
		both := append(append(memberSet(nil), nativeMembers...), ownMembers...)
		_, err := both.readCreate([]byte(body), newFake().CheckURL, func(event.Set) bool { return true })
		var p *problem
		if !errors.As(err, &p) || p.about() != want {
			t.Errorf("%s: %v is about %q, want %q", body, err, p.about(), want)
		}
	}
}
