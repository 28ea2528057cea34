package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// TestDeliveriesAreListedWithLastResponseAndClient: a list says how the last attempt
// ended and whose delivery it is, and is filtered by both.
func TestDeliveriesAreListedWithLastResponseAndClient(t *testing.T) {
	v := dashrun.Start(t, func(path string) {
		dashrun.Seed(t, path, []dashrun.Row{
			{ID: "pred_refused", URL: "https://hooks.example.com/in", Event: event.Completed, Age: time.Hour, Statuses: []int{503, 401}, Err: "the token is wrong"},
			{ID: "pred_silent", URL: "https://hooks.example.com/in", Event: event.Completed, Age: time.Hour, Statuses: []int{500, 0}},
			{ID: "pred_fine", URL: "https://hooks.example.com/in", Event: event.Completed, Age: time.Hour, Statuses: []int{200}},
		})
	}).Visitor()
	body := v.Page("/_webhooks/deliveries")
	for _, want := range []string{">401<", "the token is wrong", ">no response<", "connection refused", "83ms", "user alice", "2 attempts", ">pred_refused<"} {
		if !strings.Contains(body, want) {
			t.Errorf("the list has no %q:\n%s", want, body)
		}
	}
	for query, want := range map[string][]string{
		"response=4xx": {"pred_refused"}, "response=none": {"pred_silent"}, "response=5xx": nil, "response=2xx&event=completed": {"pred_fine"},
		"client=alice&state=failed": {"pred_refused", "pred_silent"}, "client=bob": nil, "client=alice&response=4xx&state=failed": {"pred_refused"},
	} {
		body := v.Page("/_webhooks/deliveries?" + query)
		for _, id := range []string{"pred_refused", "pred_silent", "pred_fine"} {
			listed := false
			for _, w := range want {
				listed = listed || w == id
			}
			if strings.Contains(body, ">"+id+"<") != listed {
				t.Errorf("%s lists %s: %v, want %v", query, id, !listed, listed)
			}
		}
	}
	if resp, body := v.Do(http.MethodGet, "/_webhooks/deliveries?response=6xx", nil); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "use 2xx, 3xx, 4xx, 5xx or none") {
		t.Errorf("a response that there is not: %d %s", resp.StatusCode, body)
	}
}

// TestADeliveryWaitsInWords: behind an open breaker a delivery says what it waits for,
// not that it is overdue.
func TestADeliveryWaitsInWords(t *testing.T) {
	s := dashrun.Start(t, nil)
	v := s.Visitor()
	s.Receiver.AnswerStatus(http.StatusInternalServerError)
	s.Create("/down")
	s.Receiver.Wait(3)
	caddyrun.Until(t, "the breaker to open", func() bool { return strings.Contains(v.Page("/_webhooks/endpoints"), `class="badge open"`) })
	s.Create("/down")
	if body := v.Page("/_webhooks/deliveries?state=pending"); !strings.Contains(body, "waits for the receiver’s URL: breaker open, next probe") {
		t.Fatalf("no delivery says what it waits for:\n%s", body)
	}
	if body := v.Page("/_webhooks/api/deliveries?state=pending&limit=1"); !strings.Contains(body, `"breaker":{"of":"url","state":"open"`) {
		t.Errorf("the document has no breaker: %s", body)
	}
}

// TestUnknownPathsArePages: an unknown path is a page of the dashboard, whose links
// work, and so is the refusal of those who are not signed in.
func TestUnknownPathsArePages(t *testing.T) {
	s := dashrun.Start(t, nil)
	v := s.Visitor()
	for path, up := range map[string]string{"/_webhooks/none": `href="./deliveries"`, "/_webhooks/a/b/c": `href="../../deliveries"`, "/_webhooks/d%65liveries/x": `href="../deliveries"`} {
		resp, body := v.Do(http.MethodGet, path, nil)
		if resp.StatusCode != http.StatusNotFound || !strings.Contains(body, "There is no such page") || !strings.Contains(body, up) {
			t.Errorf("%s is %d without %s:\n%s", path, resp.StatusCode, up, body)
		}
	}
	resp, err := s.Client.Get(s.URL("PORT2", "/_webhooks/deliveries"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := make([]byte, 4096)
	n, _ := resp.Body.Read(body)
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body[:n]), "<h1>Not signed in</h1>") || strings.Contains(string(body[:n]), "deliveries") {
		t.Errorf("signed out: %d %s", resp.StatusCode, body[:n])
	}
}

// TestInvisibleCharactersAreShown: no page has a character from outside that can't be
// seen. Links and forms have it as it is.
func TestInvisibleCharactersAreShown(t *testing.T) {
	const id = "pred\u202e\u200b\x1b[31mdetelpmoc"
	v := dashrun.Start(t, func(path string) {
		dashrun.Seed(t, path, []dashrun.Row{{
			ID: id, URL: "https://hooks.example.com/\u2066in", Event: event.Completed, Age: time.Hour, Statuses: []int{500},
			Response: "line\r\nline\u2028\u2029\ufeff", Err: "refused \u202a\u0085", Payload: "{\"x\":\"\u2069\u00ad\"}",
		}})
	}).Visitor()
	all := ""
	for _, path := range append(pages(v), "/_webhooks/deliveries?prediction="+url.QueryEscape(id)) {
		body := v.Page(path)
		for _, r := range body {
			if r != '\n' && r != '\t' && r != '\r' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xad || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff) {
				t.Errorf("%s has %U", path, r)
			}
		}
		all += body
	}
	for _, want := range []string{"pred[U+202E][U+200B][U+001B]", "[U+2066]in", "[U+2028][U+2029][U+FEFF]", "[U+202A][U+0085]", "[U+2069][U+00AD]",
		"prediction?id=pred%e2%80%ae%e2%80%8b%1b", `value="pred&#x202e;&#x200b;&#x1b;`} {
		if !strings.Contains(all, want) {
			t.Errorf("no page has %q", want)
		}
	}
}
