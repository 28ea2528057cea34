// Package browser_test tests the dashboard in a real browser.
package browser_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// browserPatience is how long a page may take on a busy machine.
const browserPatience = 2 * time.Minute

// browser is a real Chromium, headless, with a profile of its own.
type browser struct {
	*dashrun.Site
	ctx context.Context

	mu       sync.Mutex
	requests []string
	troubles []string // errors on the console, exceptions, dialogs
}

// browse starts a browser that is signed in. When the test ends it must have
// asked no other host for anything, and its console must be clean.
func browse(s *dashrun.Site) *browser {
	s.T.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		testenv.Skip(s.T, "Chromium", "apt-get install chromium")
	}
	allocator, cancel := chromedp.NewExecAllocator(s.T.Context(),
		chromedp.ExecPath(path), chromedp.UserDataDir(s.T.TempDir()), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.WSURLReadTimeout(browserPatience),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WindowSize(1280, 900),
	)
	s.T.Cleanup(cancel)
	ctx, stop := chromedp.NewContext(allocator)
	b := &browser{Site: s, ctx: ctx}
	s.T.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		stop()
	})
	if err := chromedp.Listen(ctx, b.listen); err != nil { // starts it
		s.T.Fatalf("starting %s: %v", path, err)
	}
	login := network.Headers{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(dashrun.User+":"+dashrun.Password))}
	if _, err := chromedp.Call(ctx, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: login}); err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(b.check)
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	trouble := func(format string, args ...any) { b.troubles = append(b.troubles, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		trouble("exception: %+v", *e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		trouble("console.%s", e.Type)
	case *log.EventEntryAdded:
		if strings.HasSuffix(e.Entry.URL, "/_webhooks/none") {
			return // which is opened for its 404
		}
		trouble("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *page.EventJavascriptDialogOpening:
		trouble("a dialog: %s", e.Message)
	}
}

// check reports what went wrong in the browser.
func (b *browser) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, trouble := range b.troubles {
		b.T.Errorf("in the browser: %s", trouble)
	}
	for _, url := range b.requests {
		if !strings.HasPrefix(url, b.URL("PORT1", "/_webhooks/")) {
			b.T.Errorf("the browser asked for %s", url)
		}
	}
	if len(b.requests) == 0 {
		b.T.Error("no request was seen")
	}
}

// patient returns a context for the next step.
func (b *browser) patient() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, browserPatience)
}

// run does things in the browser.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.T.Helper()
	ctx, cancel := b.patient()
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.T.Fatalf("in the browser: %v", err)
	}
}

// eval returns the value of an expression in the page. While a page is being
// left for another one, or loaded, an expression finds elements missing or no
// page at all; it is evaluated again until the page is there.
func eval[T any](b *browser, expression string) T {
	b.T.Helper()
	loaded := fmt.Sprintf(`(() => { if (document.readyState !== "complete") throw new Error("the page is loading"); return (%s) })()`, expression)
	ctx, cancel := b.patient()
	defer cancel()
	for {
		v, err := chromedp.Run(ctx, chromedp.Evaluate[T](loaded))
		if err == nil {
			return v
		}
		select {
		case <-ctx.Done():
			b.T.Fatalf("evaluating %s: %v", expression, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// click clicks the first element that a selector finds, once the page is loaded:
// until then elements still move.
func (b *browser) click(selector chromedp.CSS) {
	b.T.Helper()
	b.until("true")
	b.run(chromedp.Click(selector))
}

// open goes to a page of the dashboard.
func (b *browser) open(path string) {
	b.T.Helper()
	b.run(chromedp.Navigate(b.URL("PORT1", "/_webhooks/"+path)), chromedp.WaitReady(chromedp.CSS("main[data-page]")))
}

// live waits until the page follows what happens.
func (b *browser) live() { b.until(`document.getElementById("live").dataset.state === "on"`) }

// until waits for a condition of the page.
func (b *browser) until(condition string) {
	b.T.Helper()
	deadline := time.Now().Add(browserPatience)
	for !eval[bool](b, condition) {
		if time.Now().After(deadline) {
			b.T.Fatalf("the page never had %s:\n%s", condition, b.text("main"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *browser) text(selector string) string {
	b.T.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q).innerText", selector))
}

func (b *browser) number(expression string) int {
	b.T.Helper()
	return eval[int](b, expression)
}

// address returns the page's path below the prefix.
func (b *browser) address() string {
	b.T.Helper()
	_, path, _ := strings.Cut(eval[string](b, "location.href"), "/_webhooks/")
	return path
}

// TestBrowser goes through the pages as an operator does.
func TestBrowser(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	b := browse(s)

	b.open("")
	b.live()
	for _, want := range []string{"Overview", "Pending", "Delivered", "Failed", "Delivery attempts", "Newest deliveries", "prediction.completed"} {
		if text := b.text("main"); !strings.Contains(text, want) {
			t.Fatalf("the overview has no %q:\n%s", want, text)
		}
	}

	// What happens shows up without a reload.
	eval[bool](b, `window.stayed = true`)
	if n := b.number(`document.querySelectorAll("tr[id^=row-]").length`); n != 2 {
		t.Fatalf("%d deliveries to begin with", n)
	}
	s.Create("/live")
	b.until(`document.querySelectorAll("tr[id^=row-]").length === 4`)
	b.until(`document.querySelector("#tile-delivered .tile-value").innerText === "3"`)
	b.until(`window.stayed === true && document.querySelectorAll("#chart-out rect.good").length > 0`)

	// A filter is in the address, so that a view can be shared.
	b.open("deliveries")
	b.live()
	b.run(chromedp.SetValue(chromedp.CSS("#f-state"), "failed"))
	b.until(`location.search === "?state=failed" && document.querySelectorAll("tr[id^=row-]").length === 1`)
	// A live page leaves the filter alone that is being written.
	b.live()
	b.run(chromedp.SendKeys(chromedp.CSS("#f-prediction"), "pred_fai"))
	before := b.number(`Number(document.documentElement.dataset.refreshed || 0)`)
	s.Create("/meanwhile")
	b.until(fmt.Sprintf(`Number(document.documentElement.dataset.refreshed) > %d`, before))
	b.run(chromedp.SendKeys(chromedp.CSS("#f-prediction"), "led\r"))
	b.until(`location.search === "?state=failed&prediction=pred_failed" && document.querySelectorAll("tr[id^=row-]").length === 1`)

	// One delivery's attempts, with what was answered and what was sent.
	b.click("tr[id^=row-] a")
	b.run(chromedp.WaitReady(chromedp.CSS("#timeline")))
	text := b.text("main")
	for _, want := range []string{"Attempt 1", "Attempt 2", "Attempt 3", "500 Internal Server Error", "<b>boom</b>", "no attempts left", `"prompt": "a serene landscape`} {
		if !strings.Contains(text, want) {
			t.Errorf("the delivery's page has no %q:\n%s", want, text)
		}
	}

	// Delivering again leads to the new delivery.
	old := b.address()
	b.live()
	b.click("#redeliver")
	b.until(`location.search.startsWith("?again=") && document.querySelector("#timeline") !== null`)
	if now := b.address(); now == old || !strings.Contains(b.text("main"), "new delivery of the same event") {
		t.Errorf("delivering again led to %s:\n%s", now, b.text("main"))
	}
}

// TestBrowserRedelivers: the receiver gets what the button sends, and the page
// shows that it has.
func TestBrowserRedelivers(t *testing.T) {
	s := dashrun.Start(t, nil)
	b := browse(s)
	s.Create("/hook")
	s.Receiver.Wait(2)
	b.open("deliveries?event=completed&state=delivered")
	b.live()
	b.until(`document.querySelectorAll("tr[id^=row-]").length === 1`)
	b.click("tr[id^=row-] a")
	b.run(chromedp.WaitReady(chromedp.CSS("#redeliver")))
	b.click("#redeliver")
	b.until(`location.search.startsWith("?again=")`)
	r := s.Receiver.Wait(3)
	if r.Header.Get("X-Replicate-Event") != "prediction.completed" || r.URL.Path != "/hook" {
		t.Errorf("the receiver got %s %v", r.URL, r.Header)
	}
	b.until(`document.querySelector("h1 .badge").innerText === "delivered"`)
	b.until(`document.querySelectorAll("#timeline .good").length === 1`)
}

// TestBrowserReset: an endpoint that is left alone can be tried at once.
func TestBrowserReset(t *testing.T) {
	s := dashrun.Start(t, nil)
	b := browse(s)
	s.Receiver.AnswerStatus(500)
	s.Create("/down")
	s.Receiver.Wait(3)
	b.open("endpoints")
	b.live()
	b.until(`document.querySelector(".badge.open") !== null`)
	b.open("")
	b.until(`document.querySelector(".notice") !== null`)
	b.open("endpoints")
	s.Receiver.AnswerStatus(200)
	b.click("td form button")
	b.until(`location.search.startsWith("?reset=") && document.querySelector(".badge.closed") !== null`)
}

// TestBrowserHostile: what clients and receivers wrote is text, wherever it
// stands.
func TestBrowserHostile(t *testing.T) {
	const script = `<script>alert(1)</script><img src=x onerror=alert(2)>`
	hostileID := `"><svg onload=alert(3)>` + script + "\u202e" + strings.Repeat("long", 100)
	s := dashrun.Start(t, func(path string) {
		dashrun.Seed(t, path, []dashrun.Row{
			{ID: hostileID, URL: `https://hooks.example.com/"onmouseover="alert(4)"><script>alert(5)</script>`,
				Event: 2, Age: time.Minute, Statuses: []int{500, 500}, Response: `</pre></details>` + script + "\u202e\x00", Err: `</div>` + script,
				Payload: `{"output":"</pre></main>` + script + `","x":"{{.Token}}"}`},
			{ID: `javascript:alert(6)`, URL: `javascript:alert(7)//`, Event: 4, Age: time.Minute, Statuses: []int{404}, Response: "<base href=https://evil.example/>", Err: "<meta http-equiv=refresh content=0>"},
		})
		dashrun.SeedEvents(t, path, []dashrun.EventRow{
			{Scope: "default", Name: script + "\u202e", Prediction: hostileID, Body: `{"id":"</pre>` + script + `"}`, Statuses: []int{500, 0}, Response: script + "\u202e"},
		})
	})
	b := browse(s)
	b.look(view{"phone", 390, 844, true})
	for _, path := range []string{"", "deliveries", "predictions", "endpoints", "events", "prediction?id=" + url.QueryEscape(hostileID), `deliveries?prediction="><script>alert(8)</script>`, `endpoints?reset=<script>alert(9)</script>`} {
		b.open(path)
		b.live()
		if n := b.number(`document.querySelectorAll("main script, main img, main svg svg, main base, main meta, [onerror], [onload], [onmouseover]").length`); n != 0 {
			t.Errorf("%s: %d elements came out of a text", path, n)
		}
		if n := b.number(`[...document.links].filter(a => a.protocol !== "http:" || a.host !== location.host).length`); n != 0 {
			t.Errorf("%s: %d links lead elsewhere", path, n)
		}
		if n := b.number(`document.scrollingElement.scrollWidth - innerWidth`); n > 0 {
			t.Errorf("%s is %d pixels wider than a phone", path, n)
		}
		b.accessible(path)
	}
	b.open("predictions")
	if text := b.text("main"); !strings.Contains(text, script) || !strings.Contains(text, "javascript:alert(7)") {
		t.Errorf("the texts are not shown as they are:\n%s", text)
	}
	b.open("deliveries")
	links := eval[[]string](b, `[...document.querySelectorAll("tr[id^=row-] td:first-child > a")].map(a => a.getAttribute("href"))`)
	if len(links) != 4 {
		t.Fatalf("links %v", links)
	}
	seen := ""
	for _, link := range links {
		b.open(strings.TrimPrefix(link, "./"))
		b.live()
		if n := b.number(`document.querySelectorAll("main script, main img, main base, main meta, main svg").length`); n != 0 {
			t.Errorf("%s: %d elements came out of a text", link, n)
		}
		seen += b.text("main")
	}
	for _, want := range []string{`</pre></details>` + script, `</div>` + script, `</pre></main>` + script, "{{.Token}}", "<base href"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q is not shown as it is", want)
		}
	}
}

// TestBrowserFramed: no page can show the dashboard in a frame, not even one of
// the same origin.
func TestBrowserFramed(t *testing.T) {
	s := dashrun.Start(t, nil)
	b := browse(s)
	b.open("")
	b.live()
	b.run(chromedp.Navigate(s.URL("PORT1", "/another/page")))
	eval[bool](b, `(() => {
		window.loaded = 0;
		for (const src of ["/_webhooks/", "/another/one"]) {
			const frame = document.createElement("iframe");
			frame.onload = () => window.loaded++;
			frame.src = src;
			document.body.append(frame);
		}
		return true;
	})()`)
	b.until(`window.loaded === 2`)
	const inside = `(i => { try { return frames[i].location.pathname } catch (e) { return e.name } })`
	if got := eval[string](b, inside+"(0)"); got != "SecurityError" {
		t.Errorf("the frame has %s", got)
	}
	if got := eval[string](b, inside+"(1)"); got != "/another/one" {
		t.Errorf("another page can't be framed either: %s", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.troubles = nil // the refusal is one
	b.requests = slices.DeleteFunc(b.requests, func(url string) bool { return !strings.Contains(url, "/_webhooks/") })
}
