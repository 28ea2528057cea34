package browser_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/history"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// screenshots is where TestBrowserScreens puts the pictures that the README
// shows, if it is set:
//
//	DASHBOARD_SCREENSHOTS=$PWD/docs/images go -C e2e/interop test ./browser -run TestBrowserScreens
const screenshots = "DASHBOARD_SCREENSHOTS"

// shown are the README's pictures.
var shown = []string{"overview-light", "overview-dark", "delivery-light"}

// seeded returns the id of a prediction of anHour.
func seeded(i int) string { return fmt.Sprintf("r%dkqv5c1a%02dxj0cnb8%c", i%7, i, 'a'+i%26) }

// failedEvent returns the id of the one event that failed.
func failedEvent(v *dashrun.Visitor) string {
	v.T.Helper()
	var list operator.EventPage
	if err := json.Unmarshal([]byte(v.Page("/_webhooks/api/events?state=failed")), &list); err != nil || len(list.Results) != 1 {
		v.T.Fatalf("the failed events are %v, %v", list, err)
	}
	return list.Results[0].ID
}

// anHour seeds what an hour of work may leave.
func anHour(t *testing.T) func(string) {
	return func(path string) {
		var rows []dashrun.Row
		hosts := []string{"https://hooks.acme.example/replicate", "https://api.globex.example/webhooks/replicate?app=studio", "https://initech.example:8443/in"}
		for i := range 70 {
			row := dashrun.Row{
				ID: seeded(i), URL: hosts[i%3], Event: event.Completed,
				Age: time.Duration(70-i)*51*time.Second + 20*time.Second, Statuses: []int{200},
			}
			switch {
			case i%23 == 11:
				row.Statuses, row.Response = []int{503, 503, 502, 0, 503, 503}, "upstream connect error or disconnect/reset before headers"
			case i%9 == 4:
				row.Statuses, row.Response = []int{500, 0, 200}, `{"error":"the database is restarting"}`
			case i%13 == 6:
				row.Event = event.Failed
			case i >= 66 && i%2 == 0:
				row.Statuses, row.Pending = []int{429}, true
			}
			rows = append(rows, row)
		}
		dashrun.Seed(t, path, rows)
		dashrun.SeedEvents(t, path, []dashrun.EventRow{
			{Scope: "shop", Name: "prediction.completed", Prediction: rows[0].ID, Statuses: []int{502, 200}, Response: "Bad Gateway"},
			{Scope: "shop", Name: "prediction.failed", Prediction: rows[1].ID, Statuses: []int{0, 500}, Response: "out of order"},
			{Scope: "blog", Name: "prediction.started", Prediction: rows[2].ID, Statuses: []int{503}, Waiting: true},
		})
	}
}

// fillHistory fills the charts with an hour of work, until the test ends.
func fillHistory(t *testing.T) {
	s := &history.Source{Pending: func(context.Context) (int, error) { return 0, nil }}
	h, err := history.Attach(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Detach(s); err != nil {
			t.Error(err)
		}
	})
	now := time.Now()
	for i := range 360 {
		wave := []uint32{6, 7, 9, 12, 14, 13, 10, 8, 7, 9, 11, 8}[i/6%12] + uint32(i*7%5)
		sample := history.Sample{End: now.Add(time.Duration(i-360) * history.Step), Pending: int32(wave / 3)}
		sample.Counts[history.RequestsAccepted] = wave * 2
		sample.Counts[history.RequestsDuplicate] = wave / 4
		sample.Counts[history.RequestsRejected] = uint32(i * 5 % 7 / 5)
		sample.Counts[history.AttemptsDelivered] = wave
		sample.Counts[history.AttemptsRefused] = uint32(i * 3 % 11 / 9)
		if i > 200 && i < 225 {
			sample.Counts[history.AttemptsRefused], sample.Counts[history.AttemptsNoResponse] = wave/2, wave/4
			sample.Counts[history.AttemptsDelivered] /= 2
			sample.Pending = int32(wave + uint32(i-200)*2)
		} else if i >= 225 && i < 240 {
			sample.Pending = int32(60 - 4*(i-225))
		}
		h.Record(sample)
	}
}

// view is how a page is looked at.
type view struct {
	name          string
	width, height int64
	dark          bool
}

func (b *browser) look(v view) {
	b.T.Helper()
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	ctx, cancel := b.patient()
	defer cancel()
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		b.T.Fatal(err)
	}
	b.run(chromedp.EmulateViewport(v.width, v.height))
}

// TestBrowserScreens: every page fits a desk and a phone, in light and in dark,
// can be read, and can be walked through by keyboard.
func TestBrowserScreens(t *testing.T) {
	fillHistory(t)
	s := dashrun.Start(t, anHour(t))
	b := browse(s)
	v := s.Visitor()
	failed := v.FailedDelivery()
	pages := map[string]string{
		"overview": "?range=1h", "deliveries": "deliveries?limit=8", "delivery": "deliveries/" + failed, "predictions": "predictions?limit=8", "endpoints": "endpoints",
		"endpoint": "endpoint?endpoint=https://hooks.acme.example", "events": "events", "event": "events/" + failedEvent(v), "inbox": "inbox?scope=blog",
		"prediction": "prediction?id=" + url.QueryEscape(seeded(0)), "missing": "none", "search": "find?q=" + seeded(0)[:6],
	}
	for _, how := range []view{{"light", 1280, 900, false}, {"dark", 1280, 900, true}, {"phone", 390, 844, false}} {
		for name, path := range pages {
			b.look(how)
			b.open(path)
			b.live()
			if n := b.number(`document.scrollingElement.scrollWidth - innerWidth`); n > 0 {
				t.Errorf("%s is %d pixels wider than a %s screen", name, n, how.name)
			}
			// WCAG AA: 4.5 to 1 for text.
			if poor := eval[[]string](b, contrast); len(poor) > 0 {
				t.Errorf("%s in %s: hard to read:\n%s", name, how.name, strings.Join(poor, "\n"))
			}
			b.accessible(name + " in " + how.name)
			b.shoot(name + "-" + how.name)
		}
	}
	b.look(view{"light", 1280, 900, false})
	b.open("deliveries")
	b.live()
	// The first stop leads past the navigation, and all is within reach.
	b.run(chromedp.KeyEvent("\t"))
	if got := eval[string](b, `document.activeElement.className`); got != "skip" {
		t.Errorf("the first stop is %q", got)
	}
	b.run(chromedp.KeyEvent("/"))
	if got := eval[string](b, `document.activeElement.id`); got != "search" {
		t.Errorf("/ leads to %q", got)
	}
	if n := b.number(`[...document.querySelectorAll("input:not([type=hidden]), select")].filter(f => !f.closest("label") && !f.ariaLabel).length`); n != 0 {
		t.Errorf("%d fields have no label", n)
	}
}

// contrast lists the texts whose color is too near their ground's.
const contrast = `(() => {
	const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
	const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
	const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 200) return c; } return [255, 255, 255]; };
	const poor = new Set();
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement;
		if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("svg, .skip, .hidden-label")) continue;
		const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) poor.add(e.className + " " + walk.currentNode.data.trim().slice(0, 40) + ": " + ratio.toFixed(2));
	}
	return [...poor];
})()`

// shoot keeps a picture, if pictures are asked for.
func (b *browser) shoot(name string) {
	b.T.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" || !slices.Contains(shown, name) {
		return
	}
	ctx, cancel := b.patient()
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600)
	}
	if err != nil {
		b.T.Fatal(err)
	}
}

// TestBrowserWithoutScripts: all can be read, filtered and delivered again where
// scripts are switched off.
func TestBrowserWithoutScripts(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	b := browse(s)
	ctx, cancel := b.patient()
	defer cancel()
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open("")
	if text := b.text("main"); !strings.Contains(text, "prediction.completed") || !strings.Contains(text, "1 h ago") {
		t.Errorf("the overview has:\n%s", text)
	}
	b.open("deliveries")
	b.run(chromedp.SetValue(chromedp.CSS("#f-state"), "failed"))
	b.click("form[data-filter] button")
	b.until(`new URLSearchParams(location.search).get("state") === "failed" && document.querySelectorAll("tr[id^=row-]").length === 1`)
	b.click("tr[id^=row-] a")
	b.until(`document.getElementById("redeliver") !== null`)
	b.click("#redeliver")
	b.until(`location.search.startsWith("?again=")`)
}
