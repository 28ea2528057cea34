package replicatewebhook_test

import (
	"strings"
	"testing"
)

// TestInboxIsCheckedAtLoad: what did not come through the Caddyfile is checked all the
// same.
func TestInboxIsCheckedAtLoad(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	const secret = `,"secret":["{env.EDGE_TEST_SECRET}"]`
	inbox := func(options, handlers string) string {
		return secret + `,"inbox":{` + options + `"routes":[{"handle":[` + handlers + `]}]}`
	}
	const respond = `{"handler":"static_response","status_code":204}`
	for _, c := range []struct{ name, options, want string }{
		{"empty", secret + `,"inbox":{}`, "inbox is empty"},
		{"no routes", secret + `,"inbox":{"routes":[]}`, "inbox is empty"},
		{"a nested edge", inbox("", `{"handler":"replicate_webhook"`+secret+`}`), "can't stand inside of an inbox"},
		{"a nested edge in a subroute", inbox("", `{"handler":"subroute","routes":[{"handle":[{"handler":"replicate_webhook"`+secret+`}]}]}`), "can't stand inside of an inbox"},
		{"an unknown handler", inbox("", `{"handler":"no_such"}`), "no_such"},
		{"an unknown field", inbox(`"retries":1,`, respond), "retries"},
		{"unknown order", inbox(`"ordered":"event",`, respond), "ordered"},
		{"order under payload any", inbox(`"ordered":"prediction",`, respond) + `,"payload":"any"`, "under payload any"},
		{"unknown resign", inbox(`"resign":"yes",`, respond), "resign"},
		{"retry_for off", inbox(`"retry_for":-1,`, respond), "retry_for"},
		{"retry_for as seconds", inbox(`"retry_for":3600,`, respond), `write "3600s"`},
		{"negative concurrency", inbox(`"concurrency":-1,`, respond), "concurrency"},
		{"negative events", inbox(`"max_events":-1,`, respond), "max_events"},
		{"few bytes", inbox(`"max_bytes":4096,`, respond), "max_body"},
		{"pass", inbox("", respond) + `,"on_store_error":"pass"`, "on_store_error"},
		{"record", inbox("", respond) + `,"record":"1h"`, "record"},
		{"record off", secret + `,"record":-1`, "record"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := provision(t, jsonEdge(c.options))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "replicate_webhook") {
				t.Fatalf("got %v, want it to name %q and the module", err, c.want)
			}
		})
	}
	for name, options := range map[string]string{
		"defaults": inbox("", respond), "any": inbox("", respond) + `,"payload":"any"`, "none under any": inbox(`"ordered":"none",`, respond) + `,"payload":"any"`,
		"record": secret + `,"record":"1h"`, "a nested edge outside": secret,
	} {
		if err := provision(t, jsonEdge(options)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInboxesOfAScopeMustBeEqual in all but how JSON writes them.
func TestInboxesOfAScopeMustBeEqual(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	const secret = `"secret":["{env.EDGE_TEST_SECRET}"]`
	two := func(first, second string) string {
		both := `{"handler":"replicate_webhook",` + secret + first + `},{"handler":"replicate_webhook",` + secret + second + `}`
		return strings.Replace(jsonEdge(""), `{"handler":"replicate_webhook"}`, both, 1)
	}
	const one = `,"inbox":{"routes":[{"handle":[{"handler":"static_response","status_code":204}],"group":"group1"}]}`
	for name, second := range map[string]string{
		"the same": one,
		"spelled in another way": `,"inbox":{"retry_for":"72h", "concurrency": 16,
			"routes":[{"group":"group7","handle":[{"status_code":204,"handler":"static_response"}]}]}`,
	} {
		if err := provision(t, two(one, second)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, second := range map[string]string{
		"none":           "",
		"another app":    `,"inbox":{"routes":[{"handle":[{"handler":"static_response","status_code":205}],"group":"group1"}]}`,
		"another option": `,"inbox":{"concurrency":8,"routes":[{"handle":[{"handler":"static_response","status_code":204}],"group":"group1"}]}`,
		"another group":  `,"inbox":{"routes":[{"handle":[{"handler":"static_response","status_code":204}]}]}`,
	} {
		for _, config := range []string{two(one, second), two(second, one)} {
			err := provision(t, config)
			if err == nil || !strings.Contains(err.Error(), "inbox") || !strings.Contains(err.Error(), "number 1 and 2") {
				t.Errorf("%s: got %v, want both handlers and the option named", name, err)
			}
		}
	}
}

// TestInboxOptionsThatAreRarelyMeantAreWarnedOf at load.
func TestInboxOptionsThatAreRarelyMeantAreWarnedOf(t *testing.T) {
	e := newEdge(t, "")
	for _, c := range []struct {
		options string
		warned  string
	}{
		{"inbox 127.0.0.1:1", ""},
		{"inbox 127.0.0.1:1\ndedup off", "dedup is off with an inbox"},
		{"inbox {\nhandle {\nreverse_proxy 127.0.0.1:1 {\nfail_duration 10s\n}\n}\n}", "passive health checks"},
		{"inbox {\nhandle {\nroute /a {\nreverse_proxy 127.0.0.1:1 {\nunhealthy_status 5xx\n}\n}\n}\n}", "passive health checks"},
		{"inbox {\nhandle {\nreverse_proxy 127.0.0.1:1 {\nlb_policy first\n}\n}\n}", ""},
	} {
		count := func(text string) int { return len(e.Logs.Lines("warn", text)) }
		dedup, checks := count("dedup is off with an inbox"), count("passive health checks")
		e.reload(c.options)
		if got := count("dedup is off with an inbox") > dedup; got != (c.warned == "dedup is off with an inbox") {
			t.Errorf("%q: warned of dedup is %v", c.options, got)
		}
		if got := count("passive health checks") > checks; got != (c.warned == "passive health checks") {
			t.Errorf("%q: warned of health checks is %v", c.options, got)
		}
	}
}
