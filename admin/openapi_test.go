package admin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/admin"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// schema is what this description uses of JSON Schema. Other keywords are
// refused when it is read, so that none is believed to be checked.
type schema struct {
	Ref         string             `json:"$ref"`
	Type        string             `json:"type"`
	Description string             `json:"description"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Additional  *bool              `json:"additionalProperties"`
	Items       *schema            `json:"items"`
	Enum        []string           `json:"enum"`
	Const       string             `json:"const"`
	Format      string             `json:"format"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
	Default     any                `json:"default"`
}

type parameter struct {
	Name        string  `json:"name"`
	In          string  `json:"in"`
	Description string  `json:"description"`
	Required    bool    `json:"required"`
	Schema      *schema `json:"schema"`
}

type content map[string]struct {
	Schema *schema `json:"schema"`
}

type response struct {
	Description string `json:"description"`
	Headers     map[string]struct {
		Description string  `json:"description"`
		Schema      *schema `json:"schema"`
	} `json:"headers"`
	Content content `json:"content"`
}

type operation struct {
	ID         string              `json:"operationId"`
	Summary    string              `json:"summary"`
	Parameters []parameter         `json:"parameters"`
	Responses  map[string]response `json:"responses"`
}

type description struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Title, Version, Description string
	} `json:"info"`
	Servers []struct {
		URL string `json:"url"`
	} `json:"servers"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

func readDescription(t *testing.T) *description {
	t.Helper()
	f, err := os.Open("../docs/admin/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	doc := new(description)
	if err := d.Decode(doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// check returns an error if a value does not match its schema.
func (d *description) check(s *schema, v any, at string) error {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		if s = d.Components.Schemas[name]; s == nil {
			return fmt.Errorf("%s: there is no schema %s", at, name)
		}
	}
	bad := func() error { return fmt.Errorf("%s is %v, which is no %s", at, v, s.Type) }
	switch s.Type {
	case "object":
		o, ok := v.(map[string]any)
		if !ok {
			return bad()
		}
		for _, name := range s.Required {
			if _, ok := o[name]; !ok {
				return fmt.Errorf("%s has no %s", at, name)
			}
		}
		for name, value := range o {
			p := s.Properties[name]
			if p == nil {
				if s.Additional != nil && !*s.Additional {
					return fmt.Errorf("%s has %s, which is not described", at, name)
				}
				continue
			}
			if err := d.check(p, value, at+"."+name); err != nil {
				return err
			}
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return bad()
		}
		for i, item := range list {
			if err := d.check(s.Items, item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case "string":
		text, ok := v.(string)
		if !ok || s.Enum != nil && !slices.Contains(s.Enum, text) || s.Const != "" && text != s.Const {
			return bad()
		}
		if s.Format == "date-time" {
			if at, err := time.Parse(time.RFC3339Nano, text); err != nil || at.Location() != time.UTC {
				return bad()
			}
		}
	case "integer", "number":
		n, ok := v.(float64)
		if !ok || s.Type == "integer" && n != float64(int64(n)) || s.Minimum != nil && n < *s.Minimum {
			return bad()
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return bad()
		}
	default:
		return fmt.Errorf("%s: type %q is not checked", at, s.Type)
	}
	return nil
}

func TestEveryRouteIsDescribed(t *testing.T) {
	doc := readDescription(t)
	var got []string
	for path, methods := range doc.Paths {
		for method := range methods {
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	want := admin.Described()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("described are %q, there are %q", got, want)
	}
}

// TestAnswersAreAsDescribed asks every route that is described, with every
// parameter and in every way that it can fail.
func TestAnswersAreAsDescribed(t *testing.T) {
	doc := readDescription(t)
	s := siterun.Start(t, siterun.Options{})
	s.Hook.AnswerStatus(http.StatusInternalServerError)
	id := s.Create("/bad")
	st := s.Settled(2)
	if st.Deliveries.Failed == 0 {
		t.Fatalf("nothing failed: %+v", st)
	}
	rows, err := s.Admin.Deliveries(t.Context(), deliveryQuery("failed"))
	if err != nil {
		t.Fatal(err)
	}
	example := map[string]string{
		"limit": "1", "cursor": "zz", "status": "failed", "state": "failed", "event": "failed", "since": "1h",
		"endpoint": s.Hook.URL, "prediction": id, "client": s.APIURL() + siterun.Client, "api": s.APIURL(), "dry_run": "true", "overlap": "0s", "q": id,
	}
	db := s.Store()
	for _, scope := range []string{"default", "full"} {
		if err := db.SetPaused(t.Context(), scope, true); err != nil {
			t.Fatal(err)
		}
	}
	// Events in the states that the routes need: waiting ones of an inbox that is
	// paused, ended ones, and one whose body made room for another.
	waiting := func() string { return siterun.Accept(t, db, store.Inbound{Scope: "default", PredictionID: "p1"}) }
	discarded := func(id string) string {
		if _, err := s.Admin.ChangeEvent(t.Context(), operator.ActionDiscard, id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	recorded := siterun.Accept(t, db, store.Inbound{Scope: "other", Recorded: &store.Attempt{Status: 200, Number: 1, At: time.Now(), Took: time.Millisecond}})
	example["scope"] = "other"
	seen := make(map[string]bool)
	ask := func(method, path, query string, op operation) (status int) {
		t.Helper()
		req, err := http.NewRequest(strings.ToUpper(method), "http://"+s.AdminAddr+admin.Base+strings.TrimPrefix(path, "/")+"?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := caddyrun.ThroughReloads(s.Client).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s %s?%s", method, path, query)
		described, ok := op.Responses[fmt.Sprint(resp.StatusCode)]
		if !ok {
			t.Errorf("%s: status %d is not described: %s", name, resp.StatusCode, body)
			return resp.StatusCode
		}
		seen[op.ID+" "+fmt.Sprint(resp.StatusCode)] = true
		for header := range described.Headers {
			if err := doc.check(described.Headers[header].Schema, resp.Header.Get(header), header); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Errorf("%s: %v in %s", name, err, body)
			return resp.StatusCode
		}
		if err := doc.check(described.Content["application/json"].Schema, v, "answer"); err != nil {
			t.Errorf("%s: %v in %s", name, err, body)
		}
		return resp.StatusCode
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for method, op := range doc.Paths[path] {
			real, none := path, path
			for old, now := range map[string]string{"/predictions/{id}": "/predictions/" + id, "/deliveries/{id}": "/deliveries/" + rows.Results[0].ID} {
				real = strings.Replace(real, old, now, 1)
			}
			example["state"] = "failed"
			switch path {
			case "/events/retry", "/events/discard":
				example["state"] = "waiting"
			case "/events/{id}", "/events/{id}/request":
				real = strings.Replace(path, "{id}", recorded, 1)
			case "/events/{id}/retry", "/events/{id}/discard":
				real = strings.Replace(path, "{id}", waiting(), 1)
			case "/events/{id}/replay":
				real = strings.Replace(path, "{id}", discarded(waiting()), 1)
			}
			none = strings.Replace(none, "{id}", "nobody", 1)
			required := ""
			for _, p := range op.Parameters {
				if p.In == "query" && (p.Required || p.Name == "client") {
					required = p.Name + "=" + url.QueryEscape(example[p.Name])
				}
			}
			if got := ask(method, real, required, op); got != http.StatusOK {
				t.Errorf("%s %s: status %d", method, real, got)
			}
			for _, p := range op.Parameters {
				if p.In != "query" {
					continue
				}
				query := p.Name + "=" + url.QueryEscape(example[p.Name])
				if required != "" && !strings.HasPrefix(required, p.Name+"=") {
					query += "&" + required
				}
				if got := ask(method, real, query, op); got != http.StatusOK {
					t.Errorf("%s %s with %s: status %d", method, real, p.Name, got)
				}
				ask(method, real, p.Name+"=%21&"+p.Name+"=%21", op)
			}
			if got := ask(method, real, "nonsense=1", op); got != http.StatusBadRequest {
				t.Errorf("%s %s with an unknown parameter: status %d", method, real, got)
			}
			if none != path {
				ask(method, none, "", op)
			}
		}
	}
	if got := ask("post", "/endpoints/reset", "endpoint=https://nobody.example.com", doc.Paths["/endpoints/reset"]["post"]); got != http.StatusNotFound {
		t.Errorf("resetting an endpoint that is not known: status %d", got)
	}
	for overlaps := 0; ; overlaps++ {
		got := ask("post", "/secret/rotate", "overlap=1h", doc.Paths["/secret/rotate"]["post"])
		if got == http.StatusConflict && overlaps > 0 {
			break
		}
		if got != http.StatusOK || overlaps > store.MaxOverlaps {
			t.Fatalf("rotation %d: status %d", overlaps, got)
		}
	}
	// A 410 disables the webhook.
	s.Hook.AnswerStatus(http.StatusGone)
	if _, err := s.Admin.Redeliver(t.Context(), rows.Results[0].ID); err != nil {
		t.Fatal(err)
	}
	s.Settled(3)
	op := doc.Paths["/deliveries/{id}/redeliver"]["post"]
	if got := ask("post", "/deliveries/"+rows.Results[0].ID+"/redeliver", "", op); got != http.StatusConflict {
		t.Errorf("redelivering to a disabled webhook: status %d", got)
	}
	ended, waits := discarded(waiting()), waiting()
	bodiless := discarded(siterun.Accept(t, db, store.Inbound{Scope: "full"}))
	inboxes, err := s.Admin.Inboxes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range inboxes.Results {
		if in.Scope == "full" {
			siterun.Accept(t, db, store.Inbound{Scope: "full", MaxBytes: in.Bytes})
		}
	}
	for _, c := range []struct{ method, path, id string }{
		{"post", "/events/{id}/retry", ended}, {"post", "/events/{id}/discard", ended}, {"post", "/events/{id}/replay", waits},
		{"post", "/events/{id}/replay", recorded}, {"post", "/events/{id}/replay", bodiless}, {"get", "/events/{id}/request", bodiless},
	} {
		if got := ask(c.method, strings.Replace(c.path, "{id}", c.id, 1), "", doc.Paths[c.path][c.method]); got != http.StatusConflict {
			t.Errorf("%s of an event in the wrong state: status %d", c.path, got)
		}
	}
	// Nothing in the configuration has the app any more.
	s.Reload(s.Expand("{\n{$GLOBALS}\n}\nhttp://127.0.0.1:{$PORT1} {\n respond 204\n}\n"))
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if got := ask(method, strings.Replace(path, "{id}", "x", 1), "", op); got != http.StatusNotFound {
				t.Errorf("%s %s without the app: status %d", method, path, got)
			}
		}
	}
	for _, methods := range doc.Paths {
		for _, op := range methods {
			for status := range op.Responses {
				if !seen[op.ID+" "+status] && status != "503" {
					t.Errorf("%s was never answered %s", op.ID, status)
				}
			}
		}
	}
}
