package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var searchCases = []trackingCase{
	{"by what a text names", searchTexts},
	{"of a delivery by the beginning of its id", searchByNumber},
	{"of more than the limit", searchMany},
	{"of one among many", searchOneOfMany},
	{"for nothing", searchNothing},
	{"closed is unavailable", searchClosed},
}

// search finds a text, and returns what was found as one text: the IDs of predictions,
// events by their names, clients, endpoints, and the number of deliveries.
func (b *tracking) search(text string, limit int) (found store.Found, summary string) {
	b.t.Helper()
	found, err := b.s.Find(ctx, text, limit)
	b.must(err)
	var out []string
	for _, p := range found.Predictions {
		if p.Credential != nil || p.Token != nil || p.Body != nil {
			b.t.Errorf("finding %q: prediction %s comes with secrets", text, p.ID)
		}
		out = append(out, p.ID)
	}
	for _, e := range found.Events {
		if e.Inbound == nil || e.Payload != nil {
			b.t.Errorf("finding %q: event %+v", text, e)
		}
		out = append(out, "event:"+e.Inbound.Name)
	}
	for _, d := range found.Deliveries {
		if d.Inbound != nil || d.Payload != nil {
			b.t.Errorf("finding %q: delivery %+v", text, d)
		}
	}
	for _, c := range found.Clients {
		out = append(out, "client:"+c)
	}
	for _, e := range found.Endpoints {
		out = append(out, "endpoint:"+e)
	}
	if n := len(found.Deliveries); n > 0 {
		out = append(out, fmt.Sprint("deliveries:", n))
	}
	if found.More {
		out = append(out, "more")
	}
	return found, strings.Join(out, " ")
}

// searched tracks a prediction with what operators find it by, and one delivery.
func (b *tracking) searched(id, client, url string) store.Prediction {
	b.t.Helper()
	p := b.prediction(id)
	p.Client, p.URL = client, url
	return b.trackAs(p, event.Started)
}

func searchTexts(t *testing.T, b *tracking) {
	b.searched("ufawq", testAPI+" user/alice", "https://hooks.example.com/a?tenant=42")
	b.searched("ufazz", testAPI+" user/bob", "https://HOOKS.example.com:8443/b")
	b.searched("gtsll", testAPI+" sha256:0a1b", "http://10.0.0.1/Deep/Path%5C_100%25")
	disabled := b.searched("ddngl", testAPI+" user/alice", hook)
	b.set(disabled, "")
	in := &inbox{b}
	in.accept("ufawq", "inbound.one")
	in.accept("only-inbound", "inbound.two", "inbound.three")
	for text, want := range map[string]string{
		"ufawq":                           "ufawq event:inbound.one deliveries:1",
		"  ufawq\n":                       "ufawq event:inbound.one deliveries:1",
		"ufa":                             "ufazz ufawq event:inbound.one deliveries:2",
		"only-inbound":                    "event:inbound.three event:inbound.two",
		"only-":                           "event:inbound.three event:inbound.two",
		"alice":                           "ddngl ufawq client:" + testAPI + " user/alice deliveries:2",
		"user/b":                          "ufazz client:" + testAPI + " user/bob deliveries:1",
		testAPI + " user/bob":             "ufazz client:" + testAPI + " user/bob deliveries:1",
		"sha256:0a":                       "gtsll client:" + testAPI + " sha256:0a1b deliveries:1",
		"0A1B":                            "gtsll client:" + testAPI + " sha256:0a1b deliveries:1",
		"hooks.example.com":               "ufazz ufawq endpoint:https://hooks.example.com:443 endpoint:https://hooks.example.com:8443 deliveries:2",
		"https://hooks.example.com":       "ufazz ufawq endpoint:https://hooks.example.com:443 endpoint:https://hooks.example.com:8443 deliveries:2",
		"hooks.example.com:8443":          "ufazz endpoint:https://hooks.example.com:8443 deliveries:1",
		"https://hooks.example.com/":      "ufawq endpoint:https://hooks.example.com:443 deliveries:1",
		"https://hooks.example.com:443/a": "ufawq deliveries:1",
		"example.com/a?tenant=42":         "ufawq deliveries:1",
		"tenant=42":                       "ufawq deliveries:1",
		"/deep/path%5c_100%25":            "gtsll deliveries:1",
		"10.0.0.1:80":                     "gtsll endpoint:http://10.0.0.1:80 deliveries:1",
		"deep_path":                       "",
		"%":                               "gtsll deliveries:1",
		"https://hooks.example.com/c":     "",
		"dlv_":                            "",
		"evt_":                            "",
		"nobody":                          "",
		"\x00":                            "",
		"\xff":                            "",
		"'; --":                           "",
	} {
		if _, got := b.search(text, 10); got != want {
			t.Errorf("finding %q:\n%s\nwant\n%s", text, got, want)
		}
	}
}

func searchByNumber(t *testing.T, b *tracking) {
	for i := range 40 {
		b.track(fmt.Sprint("p", i), event.Started)
	}
	in := &inbox{b}
	id := in.accepted(in.event("inbound", "p7"))
	all := b.deliveries(store.DeliveryFilter{Limit: 100}, nil)
	for _, d := range all {
		number := d.ID[:strings.LastIndexByte(d.ID, '_')]
		for _, text := range []string{d.ID, number + "_", d.ID[:len(d.ID)-3]} {
			found, _ := b.search(text, 10)
			if len(found.Deliveries) != 1 || found.Deliveries[0].ID != d.ID || len(found.Predictions) != 1 || found.Predictions[0].Ref != d.Prediction {
				t.Fatalf("finding %q: %+v", text, found)
			}
		}
		found, _ := b.search(number, 100)
		var want []string
		for _, other := range all {
			if strings.HasPrefix(other.ID, number) {
				want = append(want, other.ID)
			}
		}
		var got []string
		for _, other := range found.Deliveries {
			got = append(got, other.ID)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("finding %q: %q, want %q", number, got, want)
		}
	}
	for _, text := range []string{id, id[:len(id)-16], id[:6]} {
		if _, got := b.search(text, 10); got != "p7 event:inbound" {
			t.Errorf("finding %q: %q", text, got)
		}
	}
	last := "0"
	if strings.HasSuffix(id, last) {
		last = "1"
	}
	for _, text := range []string{id[:len(id)-1] + last, strings.ToUpper(id), strings.Replace(id, "evt", "dlv", 1), "dlv_-1", "dlv_01", "dlv_zzzzzzzzzzzzzzzzzz"} {
		if _, got := b.search(text, 10); got != "" {
			t.Errorf("finding %q: %q", text, got)
		}
	}
}

func searchMany(t *testing.T, b *tracking) {
	for i := range 5 {
		b.searched(fmt.Sprint("p", i), testAPI+" user/alice", "https://hooks.example.com/a")
	}
	for _, text := range []string{"p", "alice", "hooks", "https://hooks.example.com/a"} {
		found, got := b.search(text, 3)
		if len(found.Predictions) != 3 || found.Predictions[0].ID != "p4" || len(found.Deliveries) != 3 || !found.More {
			t.Errorf("finding up to 3 of %q: %s", text, got)
		}
		if _, got := b.search(text, 5); strings.Contains(got, "more") {
			t.Errorf("finding all of %q: %s", text, got)
		}
	}
}

// searchOneOfMany: names are found by their beginnings, whether or not there are more
// than are looked through.
func searchOneOfMany(t *testing.T, b *tracking) {
	for i := range 300 {
		b.searched(fmt.Sprint("p", i), fmt.Sprintf("%s user/client-%d", testAPI, i), fmt.Sprintf("https://host-%d.example.com/hook", i))
	}
	for _, text := range []string{"client-299", "user/client-299", "https://host-299.", "host-299.example.com/hook"} {
		if found, got := b.search(text, 10); len(found.Predictions) != 1 || found.Predictions[0].ID != "p299" {
			t.Errorf("finding %q: %s", text, got)
		}
	}
	if found, got := b.search("example.com", 10); len(found.Predictions) != 10 || !found.More {
		t.Errorf("finding many hosts: %s", got)
	}
}

func searchNothing(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	for _, text := range []string{"", " ", "\t\n"} {
		if _, got := b.search(text, 10); got != "" {
			t.Errorf("finding %q: %q", text, got)
		}
	}
}

func searchClosed(t *testing.T, b *tracking) {
	b.must(b.s.Close())
	_, err := b.s.Find(ctx, "a", 10)
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("finding: %v", err)
	}
}
