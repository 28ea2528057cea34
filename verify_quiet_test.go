package replicatewebhook_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// loadAt loads a Caddyfile with another level of the log, after edit has changed
// the JSON.
func loadAt(t *testing.T, e *edge, level, text string, edit func([]byte) []byte) {
	t.Helper()
	config, _, err := e.Adapt(text)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		config = edit(config)
	}
	if err := e.LoadJSON(bytes.ReplaceAll(config, []byte(`"level":"DEBUG"`), []byte(`"level":"`+level+`"`))); err != nil {
		t.Fatal(err)
	}
}

// refusals are requests that are refused before and after their body is read.
func refusals() map[string]webhook {
	w := completed("p1")
	return map[string]webhook{
		"unsigned": w.without("X-Replicate-Signature"), "forged": replicate(older, w.body), "encoded": w.with("Content-Encoding", "gzip"),
		"too large": replicate(whsec, strings.Repeat(" ", 5000)), "no webhook": standard(whsec, "m1", "{}"),
	}
}

// TestLevelOfTheLogChangesNoResponse: where nobody reads an error, the edge
// responds by itself, with the same bytes.
func TestLevelOfTheLogChangesNoResponse(t *testing.T) {
	e := newEdge(t, "")
	text := site(withSecret("max_body 4KiB"), e.app.Addr())
	got := make(map[string]map[string]string)
	for _, level := range []string{"DEBUG", "INFO", "ERROR"} {
		loadAt(t, e, level, text, nil)
		got[level] = make(map[string]string)
		for name, w := range refusals() {
			a := e.raw(w, false)
			a.header.Del("Date")
			got[level][name] = a.String()
		}
		r, _ := http.NewRequest(http.MethodPut, e.URL("PORT1", route), nil)
		resp, err := e.Client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		got[level]["PUT"] = fmt.Sprint(resp.StatusCode, resp.Header.Get("Allow"), resp.Close)
	}
	if fmt.Sprint(got["INFO"]) != fmt.Sprint(got["DEBUG"]) || fmt.Sprint(got["ERROR"]) != fmt.Sprint(got["DEBUG"]) {
		t.Errorf("responses differ with the level of the log:\n%v", got)
	}
	if len(got["INFO"]) != 6 || e.app.Count() != 0 {
		t.Errorf("got %v, and the app %d requests", got["INFO"], e.app.Count())
	}
	if lines := e.Logs.Lines(`"msg":"webhook refused"`); len(lines) != 6 {
		t.Errorf("logged are %d refusals, want those at DEBUG", len(lines))
	}
}

// TestErrorRoutesAreUsedAtAnyLevelOfTheLog, wherever they stand: at the site, in a
// subroute around the edge, and around the place that invokes a named route.
func TestErrorRoutesAreUsedAtAnyLevelOfTheLog(t *testing.T) {
	page := func(config []byte) []byte {
		const subroute = `"handler":"subroute",`
		return bytes.Replace(config, []byte(subroute),
			[]byte(subroute+`"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":418,"body":"our own"}]}]},`), 1)
	}
	e := newEdge(t, "")
	text := site(withSecret("max_body 4KiB"), e.app.Addr())
	named := "{\n\t{$GLOBALS}\n}\n&(hook) {\nroute {\n\treplicate_webhook {\n\t\tmax_body 4KiB\n\t\tsecret {env.EDGE_TEST_SECRET}\n\t}\n\treverse_proxy " + e.app.Addr() +
		"\n}\n}\nhttp://127.0.0.1:{$PORT1} {\n\thandle " + route + " {\n\t\tinvoke hook\n\t}\n}\n"
	for name, load := range map[string]func(){
		"site": func() {
			loadAt(t, e, "ERROR", strings.Replace(text, "\tlog\n", "\thandle_errors {\n\t\trespond \"our own\" 418\n\t}\n", 1), nil)
		},
		"subroute":    func() { loadAt(t, e, "ERROR", text, page) },
		"named route": func() { loadAt(t, e, "ERROR", named, page) },
	} {
		load()
		for refused, w := range refusals() {
			if a := e.raw(w, false); a.status != http.StatusTeapot || a.body != "our own" {
				t.Errorf("%s, %s: got %v", name, refused, a)
			}
		}
		e.accepted(completed(name))
	}
}
