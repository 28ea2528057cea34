package docs_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// guarded is a place of a configuration where the edge stands.
type guarded struct {
	server, host, path string
	proxied            bool // a reverse_proxy stands behind it
}

// TestNoWayRoundTheEdge posts unsigned to all that frameworks might take for
// the webhook's path, on every documented configuration that has the edge. What
// stands behind reverse_proxy must never hear of it, and does hear of a signed
// webhook.
func TestNoWayRoundTheEdge(t *testing.T) {
	tried := make(map[string]bool)
	for _, c := range configs(t) {
		places := edges(t, c.adapt(t))
		if len(places) == 0 {
			continue
		}
		tried[strings.SplitN(c.name, ":", 2)[0]] = true
		t.Run(c.name, func(t *testing.T) {
			for _, way := range waysRound(t, c, places) {
				t.Error(way)
			}
		})
	}
	for _, file := range []string{"README.md", "Caddyfile.example"} {
		if !tried[file] {
			t.Errorf("%s shows no configuration with the edge", file)
		}
	}
}

// TestErrorRoutesAreNoWayRoundTheEdge gives every documented configuration that
// has the edge an error route to an app, and posts what the edge refuses. What
// reaches the app has no body and no header that a webhook is known by.
func TestErrorRoutesAreNoWayRoundTheEdge(t *testing.T) {
	for _, c := range configs(t) {
		places := edges(t, c.adapt(t))
		if len(places) == 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			app, fallback := caddyrun.NewApp(t), caddyrun.NewApp(t)
			s := caddyrun.New(t)
			if err := s.LoadJSON(errorRoutes(t, local(t, s, c.adapt(t), app.Addr()), fallback.Addr())); err != nil {
				t.Fatal(err)
			}
			body := `{"id":"p1","status":"succeeded"}`
			for _, g := range places {
				addr, before := s.Addr("PORT"+strings.ToUpper(g.server)), fallback.Count()
				for _, text := range []string{"", "x", strings.Repeat("0", 64)} {
					h := make(http.Header)
					if text != "" {
						h.Set("X-Replicate-Signature", text)
						for _, name := range []string{"Id", "Timestamp", "Signature"} {
							h.Set("Webhook-"+name, text)
							h.Set("Svix-"+name, text)
						}
					}
					for _, method := range []string{"POST", "PUT"} {
						send(t, addr, method, g.host, g.path, h, body)
					}
				}
				if fallback.Count() == before {
					t.Errorf("%s: the error route was not used", g.path)
				}
			}
			for _, r := range fallback.Seen() {
				if len(r.Got) > 0 || r.ContentLength != 0 || r.Header.Get("Content-Type") != "" ||
					r.Header.Get("X-Replicate-Signature")+r.Header.Get("Webhook-Signature")+r.Header.Get("Svix-Signature") != "" {
					t.Errorf("%s %s reached the app by an error route with %q and %v", r.Method, r.URL, r.Got, r.Header)
				}
			}
			if seen := app.Seen(); len(seen) > 0 {
				t.Errorf("%s %s reached the app", seen[0].Method, seen[0].URL)
			}
		})
	}
}

// errorRoutes leads the errors of every server to an app.
func errorRoutes(t *testing.T, config []byte, app string) []byte {
	t.Helper()
	return edit(t, config, func(c map[string]any) {
		for _, server := range c["apps"].(map[string]any)["http"].(map[string]any)["servers"].(map[string]any) {
			server.(map[string]any)["errors"] = map[string]any{"routes": []any{map[string]any{"handle": []any{
				map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": app}}},
			}}}}
		}
	})
}

// TestAWayRoundIsFound, where one is: the matcher of a directive leaves the
// paths that it does not match to the proxy.
func TestAWayRoundIsFound(t *testing.T) {
	c := config{"bad", `http://localhost {
	replicate_webhook /webhooks/replicate {
		secret {env.WEBHOOK_SECRET}
	}
	reverse_proxy app:3000
}
`}
	found := strings.Join(waysRound(t, c, edges(t, c.adapt(t))), "\n")
	for _, way := range []string{"POST /webhooks/replicate/ ", "POST /webhooks/replicate;x=1 ", "POST /webhooks/replicate%2F "} {
		if !strings.Contains(found, way) {
			t.Errorf("%sis not found among:\n%s", way, found)
		}
	}
}

// waysRound tries a configuration, and tells what reached the app and should
// not have, or did not and should have.
func waysRound(t *testing.T, c config, places []guarded) (wrong []string) {
	t.Helper()
	app := caddyrun.NewApp(t)
	s := caddyrun.New(t)
	if err := s.LoadJSON(local(t, s, c.adapt(t), app.Addr())); err != nil {
		t.Fatal(err)
	}
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for i, g := range places {
		addr := s.Addr("PORT" + strings.ToUpper(g.server))
		seen := len(app.Seen())
		for _, path := range variants(g.path) {
			for _, method := range []string{"POST", "GET", "PUT"} {
				status := send(t, addr, method, g.host, path, nil, `{"id":"p1","status":"succeeded"}`)
				if n := len(app.Seen()); n > seen {
					fail("%s %s unsigned reached the app", method, path)
					seen = n
				} else if status < 300 || status >= 500 {
					fail("%s %s unsigned was answered %d", method, path, status)
				}
			}
		}
		body := fmt.Sprintf(`{"event":"prediction.completed","prediction":{"id":"p%d","status":"succeeded"},"timestamp":%q}`,
			i, time.Now().UTC().Format(time.RFC3339))
		key, err := signature.ParseSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		h := make(http.Header)
		signature.Sign(h, []signature.Secret{key}, "msg_"+strconv.Itoa(i), time.Now(), []byte(body))
		status := send(t, addr, "POST", g.host, g.path, h, body)
		if reached := len(app.Seen()) - seen; status == 401 || g.proxied && (status != 200 || reached != 1) {
			fail("POST %s signed was answered %d and reached the app %d times", g.path, status, reached)
		}
	}
	return wrong
}

// variants are paths that some framework routes like path, or that name it once
// they are decoded or cleaned.
func variants(path string) []string {
	dir, last, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	all := []string{
		path, path + "/", path + "//", "/" + path, path + "/.", path + "/x/..", path + ";x=1", path + ";", path + "%3bx", path + "%2f",
		path + "%2F", path + "%00", path + "%20", path + ".json", path + "?x=1", path + "?", path + "#x", "/." + path, "/x/.." + path,
		strings.ToUpper(path), fmt.Sprintf("/%%%x%s", path[1], path[2:]), strings.ReplaceAll(path, "/", `\`), "/",
	}
	if last != "" {
		all = append(all,
			"/"+dir+"//"+last, "/"+dir+"/./"+last, "/"+dir+"%2f"+last, "/"+dir+"%2F"+last, "/"+dir+"%252f"+last,
			"/"+dir+";x/"+last, "/"+dir+"/%2e/"+last, "/"+dir+`\`+last, "/"+dir+"/"+last+"/../"+last)
	}
	return all
}

// send sends a request as it is written, and gives the answer's status. Paths
// are not touched on their way, as a client library would.
func send(t *testing.T, addr, method, host, path string, header http.Header, body string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * caddyrun.Patience))
	var lines strings.Builder
	if err := header.Write(&lines); err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		method, path, host, &lines, len(body), body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// edges finds the handlers replicate_webhook of a configuration.
func edges(t *testing.T, config []byte) []guarded {
	t.Helper()
	var c struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []any `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	var found []guarded
	for name, server := range c.Apps.HTTP.Servers {
		for _, route := range server.Routes {
			walk(route, guarded{server: name, host: "localhost", path: "/webhooks/replicate"}, &found)
		}
	}
	return found
}

// walk goes down a route, keeping the host and path that lead to a place.
func walk(node any, at guarded, found *[]guarded) {
	switch n := node.(type) {
	case []any:
		for _, child := range n {
			if handler(child) == "replicate_webhook" {
				at.proxied = slices.ContainsFunc(n, func(h any) bool { return handler(h) == "reverse_proxy" })
				*found = append(*found, at)
			}
			walk(child, at, found)
		}
	case map[string]any:
		if sets, ok := n["match"].([]any); ok && len(sets) > 0 {
			set, _ := sets[0].(map[string]any)
			at.host = first(set["host"], at.host)
			at.path = strings.Replace(first(set["path"], at.path), "*", "x", 1)
		}
		for _, key := range []string{"handle", "routes"} {
			walk(n[key], at, found)
		}
	}
}

// handler is the name of a handler.
func handler(node any) string {
	n, _ := node.(map[string]any)
	name, _ := n["handler"].(string)
	return name
}

func first(list any, otherwise string) string {
	if l, _ := list.([]any); len(l) > 0 {
		return l[0].(string)
	}
	return otherwise
}

// local keeps a configuration's routes and moves everything else to the test:
// servers listen on loopback without TLS, proxies lead to the app, state is in
// the test's folder.
func local(t *testing.T, s *caddyrun.Server, config []byte, app string) []byte {
	t.Helper()
	return edit(t, quiet(t, config), func(c map[string]any) {
		c["storage"] = map[string]any{"module": "file_system", "root": s.Path("storage")}
		apps := c["apps"].(map[string]any)
		for name := range apps {
			if name != "http" && name != "replicate_webhook" {
				delete(apps, name)
			}
		}
		outbound, _ := apps["replicate_webhook"].(map[string]any)
		if outbound == nil {
			outbound = make(map[string]any)
			apps["replicate_webhook"] = outbound
		}
		outbound["store"] = map[string]any{"module": "sqlite", "path": filepath.Join(s.Dir(), "webhook.db")}
		for name, server := range apps["http"].(map[string]any)["servers"].(map[string]any) {
			server := server.(map[string]any)
			server["listen"] = []string{s.Addr("PORT" + strings.ToUpper(name))}
			server["automatic_https"] = map[string]any{"disable": true}
			delete(server, "tls_connection_policies")
			redirect(server["routes"], app)
		}
	})
}

// redirect points every reverse_proxy at the app.
func redirect(node any, app string) {
	switch n := node.(type) {
	case []any:
		for _, child := range n {
			redirect(child, app)
		}
	case map[string]any:
		if handler(n) == "reverse_proxy" {
			n["upstreams"] = []any{map[string]any{"dial": app}}
			delete(n, "transport")
		}
		for _, child := range n {
			redirect(child, app)
		}
	}
}
