package predictions

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func adapt(t *testing.T, text string) (string, error) {
	t.Helper()
	h, err := parsePredictions(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser(text)})
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), nil
}

func TestCaddyfile(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"all", `replicate_predictions {
			api https://api.replicate.com/v1
			api_token {env.TOKEN}
			prefix /v1
			test_mode off
			max_body 1MiB
			serve_signing_secret
		}`, `{"api":"https://api.replicate.com/v1","api_token":"{env.TOKEN}","prefix":"/v1","test_mode":"off","max_body":1048576,"serve_signing_secret":true}`},
		{"defaults stay out", "replicate_predictions {\napi off\n}", `{"api":"off"}`},
		{"a placeholder", "replicate_predictions {\napi {env.API}\n}", `{"api":"{env.API}"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := adapt(t, c.text); err != nil || got != c.want {
				t.Fatalf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestCaddyfileErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no api", "replicate_predictions", "api is missing"},
		{"matcher twice", "replicate_predictions x", `unexpected "x"`},
		{"unknown", "replicate_predictions {\nfoo\n}", "there is no option foo"},
		{"api twice", "replicate_predictions {\napi off\napi off\n}", "given twice"},
		{"api without scheme", "replicate_predictions {\napi api.replicate.com\n}", "absolute http or https URL"},
		{"api of another scheme", "replicate_predictions {\napi ftp://x\n}", "absolute http or https URL"},
		{"api with a query", "replicate_predictions {\napi https://x/?a\n}", "without user name, query"},
		{"api with a user", "replicate_predictions {\napi https://u:p@x\n}", "without user name"},
		{"token without api", "replicate_predictions {\napi off\napi_token {env.X}\n}", "but api is off"},
		{"test_mode", "replicate_predictions {\napi off\ntest_mode yes\n}", `test_mode is "yes"`},
		{"max_body", "replicate_predictions {\napi off\nmax_body much\n}", "not a valid size"},
		{"prefix", "replicate_predictions {\napi off\nprefix v1\n}", "begins with a slash"},
		{"prefix with dots", "replicate_predictions {\napi off\nprefix /a/../b\n}", "begins with a slash"},
		{"prefix with an escape", "replicate_predictions {\napi off\nprefix /a%2fb\n}", "begins with a slash"},
		{"flag", "replicate_predictions {\napi off\nserve_signing_secret on\n}", "takes no more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := adapt(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Testfile:") {
				t.Fatalf("the error is %v, want %q with file and line", err, c.want)
			}
		})
	}
	for text, want := range map[string]string{
		"replicate_callback":                "",
		"replicate_callback x":              `unexpected "x"`,
		"replicate_callback {\nmax_body\n}": "there is no option max_body",
	} {
		_, err := parseCallback(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser(text)})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestAPIURLs(t *testing.T) {
	for in, want := range map[string]string{
		"off":                           "",
		"https://api.replicate.com/v1":  "https://api.replicate.com/v1",
		"https://api.replicate.com/v1/": "https://api.replicate.com/v1",
		"http://127.0.0.1:5000/":        "http://127.0.0.1:5000",
	} {
		if got, err := parseAPI(in); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

func TestJSONErrors(t *testing.T) {
	for want, h := range map[string]*Handler{
		"api is missing":       {},
		"test_mode is":         {API: "off", TestMode: "true"},
		"max_body is -1":       {API: "off", MaxBody: -1},
		"max_body is 16 bytes": {API: "off", MaxBody: 16},
	} {
		if err := h.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
