package replicatewebhook_test

import (
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// jsonApp is a configuration with the app alone, in JSON.
func jsonApp(options string) string {
	return `{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"replicate_webhook":{` + options + `}}}`
}

// TestNumbersInJSONAreChecked: a number that was meant in another unit is refused
// for every option, and the error names the option.
func TestNumbersInJSONAreChecked(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	for options, want := range map[string]string{
		`"timeout":15`:                                 `timeout is 15ns: write "15s"`,
		`"poll":{"initial":500}`:                       "poll.initial is 500ns",
		`"poll":{"max":10}`:                            "poll.max is 10ns",
		`"poll":{"give_up":86400}`:                     "poll.give_up is 86.4µs",
		`"retry":{"initial_delay":1}`:                  "retry.initial_delay is 1ns",
		`"retry":{"max_delay":60}`:                     "retry.max_delay is 60ns",
		`"endpoint":{"rate":{"count":5,"per":1}}`:      "endpoint.rate.per is 1ns",
		`"endpoint":{"breaker":{"cooldown":30}}`:       "endpoint.breaker.cooldown is 30ns",
		`"retention":{"deliveries":72}`:                "retention.deliveries is 72ns",
		`"retention":{"predictions":720}`:              "retention.predictions is 720ns",
		`"timeout":-15`:                                "timeout is -15ns",
		`"body_budget":256`:                            "body_budget is 256 bytes",
		`"body_budget":-256`:                           "body_budget is -256",
		`"body_budget":2199023255552`:                  "the most is 1TiB",
		`"workers":-5`:                                 "workers is -5",
		`"workers":4294967296`:                         "workers is 4294967296",
		`"retry":{"max_attempts":99999999999}`:         "retry.max_attempts",
		`"endpoint":{"concurrency":99999999999}`:       "endpoint.concurrency",
		`"endpoint":{"breaker":{"failures":-7}}`:       "endpoint.breaker.failures",
		`"endpoint":{"rate":{"count":-5,"per":"10s"}}`: "endpoint.rate.count",
	} {
		if err := provision(t, jsonApp(options)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
	}
	for options, want := range map[string]string{
		`"tolerance":300`:           `tolerance is 300ns: write "300s"`,
		`"dedup":86400`:             `write "86400s"`,
		`"in_flight_wait":999999`:   "in_flight_wait is 999.999µs",
		`"read_timeout":10`:         "read_timeout is 10ns",
		`"upstream_timeout":60`:     "upstream_timeout is 60ns",
		`"max_body":8`:              "max_body is 8 bytes",
		`"max_body":2199023255552`:  "the most is 1TiB",
		`"events":["start"]`:        "did you mean started?",
		`"events":["a,b"]`:          "each one by itself",
		`"events":["Completed"]`:    "did you mean completed?",
		`"events":[" completed"]`:   "did you mean completed?",
		`"events":["output"]`:       "use started, completed or failed",
		`"events":["failed","..."]`: "is not an event",
	} {
		if err := provision(t, jsonEdge(`,"secret":["{env.EDGE_TEST_SECRET}"],`+options)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
	}
}

// TestUnknownEventsFailAtAdapt, with file and line.
func TestUnknownEventsFailAtAdapt(t *testing.T) {
	for name, want := range map[string]string{
		"start": "did you mean started?", "completed,failed": "each one by itself", "prediction.succeeded": "did you mean completed?",
		"COMPLETED": "did you mean completed?", `"completed "`: "did you mean completed?", "completed prediction.output": "is not an event",
	} {
		_, err := adapt(":8080 {\nreplicate_webhook {\nsecret {env.X}\nevents " + name + "\n}\n}")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:4") {
			t.Errorf("events %s: got %v, want %q and the line", name, err, want)
		}
	}
}

// TestPastedSecretsAreRefused for every option that holds a secret.
func TestPastedSecretsAreRefused(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	t.Setenv("EDGE_TEST_PASTED", `"`+whsec+`"`)
	for option, config := range map[string]string{
		"secret 1":         jsonEdge(`,"secret":["{env.EDGE_TEST_PASTED}"]`),
		"secret 2":         jsonEdge(`,"secret":["{env.EDGE_TEST_SECRET}","{env.EDGE_TEST_PASTED}"]`),
		"signing_secret 1": jsonApp(`"signing":"shared","signing_secret":["{env.EDGE_TEST_PASTED}"]`),
		"signing_secret 2": jsonApp(`"signing":"shared","signing_secret":["{env.EDGE_TEST_SECRET}","{env.EDGE_TEST_PASTED}"]`),
		"seal_key 1":       jsonApp(`"seal_key":["{env.EDGE_TEST_PASTED}"]`),
		"api_token": strings.Replace(jsonEdge(""), `{"handler":"replicate_webhook"}`,
			`{"handler":"replicate_predictions","api":"https://api.example.com/v1","api_token":"{env.EDGE_TEST_PASTED}"}`, 1),
	} {
		err := provision(t, config)
		if err == nil || !strings.Contains(err.Error(), option+": it is in quotes") {
			t.Errorf("%s: got %v, want it to name the option and the quotes", option, err)
		}
		if err != nil && strings.Contains(err.Error(), whsec) {
			t.Errorf("%s: the error quotes the secret", option)
		}
	}
}

// TestTokensAreNoSecrets: what a client authenticates with does not sign.
func TestTokensAreNoSecrets(t *testing.T) {
	token := "r8_" + strings.Repeat("aZ3bC9dE2f", 4)[:37]
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_TOKEN", token)
	for option, config := range map[string]string{
		"secret 1":         jsonEdge(`,"secret":["{env.EDGE_TEST_TOKEN}"]`),
		"signing_secret 1": jsonApp(`"signing":"shared","signing_secret":["{env.EDGE_TEST_TOKEN}"]`),
	} {
		if err := provision(t, config); err == nil || !strings.Contains(err.Error(), option+": it is an API token") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: got %v", option, err)
		}
	}
	if err := provision(t, strings.Replace(jsonEdge(""), `{"handler":"replicate_webhook"}`,
		`{"handler":"replicate_predictions","api":"https://api.example.com/v1","api_token":"{env.EDGE_TEST_TOKEN}"}`, 1)); err != nil {
		t.Errorf("as api_token: %v", err)
	}
}

// TestBodyBudgetMustHoldOneBody: a budget whose share for one client is less than
// the largest body of a handler would refuse large bodies for good.
func TestBodyBudgetMustHoldOneBody(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	const (
		edge        = "replicate_webhook {\nsecret {env.EDGE_TEST_SECRET}\nMAX\n}"
		predictions = "replicate_predictions {\napi off\nMAX\n}"
		callback    = "replicate_callback"
	)
	for _, c := range []struct{ budget, handler, max, want string }{
		{"32MiB", edge, "", "the max_body of replicate_webhook"},
		{"64MiB", edge, "", ""},
		{"32MiB", edge, "max_body 4MiB", ""},
		{"32MiB", edge, "max_body 5MiB", "the max_body of replicate_webhook"},
		{"64MiB", predictions, "", "the max_body of replicate_predictions"},
		{"128MiB", predictions, "", ""},
		{"64MiB", predictions, "max_body 8MiB", ""},
		{"64MiB", callback, "", "callback"},
		{"128MiB", callback, "", ""},
	} {
		config, err := adapt("{\nadmin off\npersist_config off\nreplicate_webhook {\nbody_budget " + c.budget + "\n}\n}\n:8080 {\n" +
			strings.Replace(c.handler, "MAX", c.max, 1) + "\n}")
		if err != nil {
			t.Fatal(err)
		}
		switch err := provision(t, config); {
		case c.want == "" && err != nil:
			t.Errorf("%s with %s %s: %v", c.budget, c.handler, c.max, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), "body_budget") || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s with %s %s: got %v, want it to name body_budget and %q", c.budget, c.handler, c.max, err, c.want)
		}
	}
}

// TestSharedSecretsOfOneSchemeAreWarnedOf: receivers that check time refuse late
// retries where only X-Replicate-Signature is there.
func TestSharedSecretsOfOneSchemeAreWarnedOf(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", whsec)
	t.Setenv("EDGE_TEST_SHARED", "only for X-Replicate-Signature")
	app := caddyrun.NewApp(t)
	start := func(secret string) *caddyrun.Server {
		return caddyrun.Start(t, strings.Replace(site(withSecret(""), app.Addr()), "{$GLOBALS}",
			"{$GLOBALS}\nreplicate_webhook {\nsigning shared\nsigning_secret "+secret+"\n}", 1))
	}
	const warning = "signing_secret does not begin with whsec_"
	plain := start("{env.EDGE_TEST_SHARED}")
	plain.Logs.Wait(t, "warn", warning)
	plain.Reload(strings.Replace(site(withSecret(""), app.Addr()), "{$GLOBALS}",
		"{$GLOBALS}\nreplicate_webhook {\nsigning shared\nsigning_secret {env.EDGE_TEST_SECRET}\n}", 1))
	if lines := plain.Logs.Lines(warning); len(lines) != 1 {
		t.Errorf("a whsec_ secret is warned of: %s", lines)
	}
}
