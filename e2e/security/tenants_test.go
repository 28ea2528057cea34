package security_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// others is the token of another client than siterun's.
const others = "r8_the_token_of_another"

var twoClients = map[string]string{siterun.Token: "alice", others: "bob"}

// ask makes a request of a client's.
func ask(t *testing.T, s *siterun.Site, method, path, body string, authorization ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, s.URL("PORT1", path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header["Authorization"] = authorization
	a, err := do(s.Client, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestNothingTellsOfAnothersPrediction: to whoever may not see it, a prediction
// with a webhook gets the very answers of one that is not there, in a time of
// the same order of magnitude.
func TestNothingTellsOfAnothersPrediction(t *testing.T) {
	s := siterun.Start(t, siterun.Options{API: fakeapi.Options{Accounts: twoClients}})
	own := s.Create("/hook")
	s.Settled(2)
	nobody := strings.Repeat("x", len(own))
	for _, c := range []struct{ method, path, body string }{
		{http.MethodGet, "", ""},
		{http.MethodPost, "/cancel", ""},
		{http.MethodPatch, "", `{"webhook_url":null}`},
		{http.MethodPatch, "", `{"webhook_events":["started"]}`},
		{http.MethodGet, "/webhook_deliveries", ""},
		{http.MethodPost, "/webhook_deliveries/1/redeliver", ""},
	} {
		var took [2][]time.Duration
		var got [2]string
		for range 21 {
			for i, id := range []string{own, nobody} {
				start := time.Now()
				a := ask(t, s, c.method, "/v1/predictions/"+id+c.path, c.body, "Bearer "+others)
				took[i] = append(took[i], time.Since(start))
				a.header.Del("Date")
				got[i] = strings.ReplaceAll(a.String(), id, "ID")
			}
		}
		if got[0] != got[1] {
			t.Errorf("%s %s: another's gets %s, one that is not there %s", c.method, c.path, got[0], got[1])
		}
		slices.Sort(took[0])
		slices.Sort(took[1])
		a, b := took[0][10], took[1][10]
		if max(a, b) > 10*min(a, b) {
			t.Errorf("%s %s: another's takes %s, one that is not there %s", c.method, c.path, a, b)
		}
	}
	if n := s.Hook.Count(); n != 2 {
		t.Errorf("the receiver got %d requests, want the 2 of its prediction", n)
	}
}

// TestTestModeIsNoOpenRelay: for whom the API does not know, nothing is sent; and
// for a client no more than two events, to nowhere that a webhook may not go.
func TestTestModeIsNoOpenRelay(t *testing.T) {
	body := func(url string) string {
		return fmt.Sprintf(`{"version":"v","input":{},"test_mode":true,"webhook_url":%q}`, url)
	}
	s := siterun.Start(t, siterun.Options{API: fakeapi.Options{Accounts: twoClients}})
	for _, auth := range [][]string{
		nil, {""}, {"Bearer wrong"}, {"Bearer " + siterun.Token + "x"}, {"Basic YTpi"}, {"Bearer wrong", "Bearer " + siterun.Token}, {siterun.Token},
	} {
		if a := ask(t, s, http.MethodPost, "/v1/predictions", body(s.Hook.URL), auth...); a.status < 400 || a.status > 499 {
			t.Errorf("%q: got %v", auth, a)
		}
	}
	for _, url := range []string{"http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/", "http://127.0.0.1:1/", "ftp://x/", "http://user@127.0.0.1/"} {
		if a := ask(t, s, http.MethodPost, "/v1/predictions", body(url), "Bearer "+siterun.Token); a.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %v, want 422", url, a)
		}
	}
	if n := s.Hook.Count(); n != 0 {
		t.Fatalf("%d requests were sent for nobody", n)
	}
	if a := ask(t, s, http.MethodPost, "/v1/predictions", body(s.Hook.URL), "Bearer "+siterun.Token); a.status != http.StatusCreated {
		t.Fatalf("a client got %v", a)
	}
	s.Settled(2)
	if n := s.Hook.Count(); n != 2 {
		t.Errorf("a client's test sent %d requests, want 2", n)
	}
}

// TestTestModeWithoutAccounts: an API that can't say who somebody is vouches for
// nobody.
func TestTestModeWithoutAccounts(t *testing.T) {
	s := siterun.Start(t, siterun.Options{API: fakeapi.Options{NoAccounts: true, Open: true}})
	for _, auth := range [][]string{nil, {"Bearer x"}} {
		a := ask(t, s, http.MethodPost, "/v1/predictions", fmt.Sprintf(`{"version":"v","input":{},"test_mode":true,"webhook_url":%q}`, s.Hook.URL), auth...)
		if a.status < 400 || a.status > 499 {
			t.Errorf("%q: got %v", auth, a)
		}
	}
	if n := s.Hook.Count(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestAnswersOfInnerReceiversStayInside: where only the operator's exception has
// admitted a receiver, a client's log tells its status and nothing that it said.
func TestAnswersOfInnerReceiversStayInside(t *testing.T) {
	for name, reply := range map[string]func(http.ResponseWriter){
		"a page": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "inner words")
		},
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://inner.corp.example/words")
			w.WriteHeader(http.StatusFound)
		},
		"no HTTP": func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "220 inner words\r\n")
				_ = conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := siterun.Start(t, siterun.Options{})
			s.Hook.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) { reply(w) })
			id := s.Create("/hook")
			s.Until("the retries to end", func(st *operator.Status) bool { return st.Deliveries.Pending == 0 && st.Deliveries.Failed > 0 })
			a := ask(t, s, http.MethodGet, "/v1/predictions/"+id+"/webhook_deliveries", "", "Bearer "+siterun.Token)
			if a.status != http.StatusOK || !strings.Contains(a.body, `"error"`) {
				t.Fatalf("the log is %v", a)
			}
			for _, word := range []string{"inner", "words", "127.0.0.1:", "dial", "lookup"} {
				if strings.Contains(strings.ReplaceAll(a.body, s.Hook.URL, "URL"), word) {
					t.Errorf("the log holds %q: %s", word, a.body)
				}
			}
		})
	}
}
