package docs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const metricsPage = "docs/metrics.md"

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]*)",(?: unit: "[^"]*",)? constLabels: \{\}, variableLabels: \{([^}]*)\}`)

// emptyStore is a store without rows.
type emptyStore struct{}

func (emptyStore) Counts(context.Context) (store.Counts, error)            { return store.Counts{}, nil }
func (emptyStore) InboxStates(context.Context) ([]store.InboxState, error) { return nil, nil }

// metricRows are the rows of the page's table, as the collectors describe
// themselves.
func metricRows(t *testing.T) []string {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := metrics.Register(registry, emptyStore{}); err != nil {
		t.Fatal(err)
	}
	ages := func() map[string]time.Duration { return map[string]time.Duration{"secret": 0} }
	if err := metrics.RegisterSecrets(registry, ages); err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]string)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(dto.MetricType_name[int32(f.GetType())])
	}
	descs := make(chan *prometheus.Desc, 100)
	registry.Describe(descs)
	close(descs)
	var rows []string
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("can't read %s", d)
		}
		kind := kinds[m[1]]
		if kind == "" { // a vector without a value yet
			kind = "counter"
		}
		labels := "–"
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", m[1], kind, labels, m[2]))
	}
	slices.Sort(rows)
	return rows
}

// TestMetricsPageIsCurrent: it lists the metrics there are. -update writes it.
func TestMetricsPageIsCurrent(t *testing.T) {
	lines := strings.Split(read(t, metricsPage), "\n")
	want := metricRows(t)
	for _, tab := range tables(lines) {
		if tab.kind != "metrics" {
			continue
		}
		got := lines[tab.first : tab.first+len(tab.rows)]
		if *update {
			lines = slices.Concat(lines[:tab.first], want, lines[tab.first+len(tab.rows):])
			if err := os.WriteFile(filepath.Join(root, metricsPage), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if !slices.Equal(got, want) {
			t.Errorf("%s lists\n%s\nwant\n%s\nRun `make docs`.", metricsPage, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return
	}
	t.Fatal("there is no table of metrics")
}

// TestMetricsPageHasAllLabels: the values of labels, and the names of events,
// are those that the source writes.
func TestMetricsPageHasAllLabels(t *testing.T) {
	lines := strings.Split(read(t, metricsPage), "\n")
	written := make(map[string][]string) // by table
	for _, o := range delivery.Outcomes() {
		written["attempts_total"] = append(written["attempts_total"], o.String())
	}
	for _, f := range delivery.Finals() {
		written["deliveries_total"] = append(written["deliveries_total"], f.String())
	}
	for _, o := range edge.Outcomes() {
		written["requests_total"] = append(written["requests_total"], string(o))
	}
	for _, file := range []string{"module.go", "deliver.go"} {
		for _, m := range regexp.MustCompile(`emit\("(\w+)"`).FindAllStringSubmatch(read(t, file), -1) {
			written["all"] = append(written["all"], m[1])
		}
	}
	if len(written["all"]) == 0 {
		t.Error("the source emits no event")
	}
	for table, values := range written {
		var listed []string
		for _, tab := range tables(lines) {
			if tab.place != table || tab.kind == "metrics" {
				continue
			}
			for _, r := range tab.rows {
				listed = append(listed, code(r[0]))
			}
		}
		for _, value := range values {
			if !slices.Contains(listed, value) {
				t.Errorf("%s: the source writes %q, which %s does not list", table, value, metricsPage)
			}
		}
		for _, value := range listed {
			if !slices.Contains(values, value) {
				t.Errorf("%s: %s lists %q, which the source does not write", table, metricsPage, value)
			}
		}
	}
}
