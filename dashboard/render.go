package dashboard

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

//go:embed templates
var templateFiles embed.FS

// templates are the pages by name.
var templates = map[string]*template.Template{
	pageOverview:    parsePage("overview.html"),
	pageDeliveries:  parsePage("deliveries.html"),
	pageDelivery:    parsePage("delivery.html"),
	pagePredictions: parsePage("predictions.html"),
	pagePrediction:  parsePage("prediction.html"),
	pageEndpoints:   parsePage("endpoints.html"),
	pageEndpoint:    parsePage("endpoint.html"),
	pageEvents:      parsePage("events.html"),
	pageEvent:       parsePage("event.html"),
	pageInbox:       parsePage("inbox.html"),
	pageFind:        parsePage("find.html"),
	pageAll:         parsePage("all.html"),
	pageProblem:     parsePage("problem.html"),
	pageSignedOut:   parsePage("signedout.html"),
}

const (
	// pageProblem says what went wrong.
	pageProblem = "problem"
	// pageSignedOut says how to sign in.
	pageSignedOut = "signedout"
)

func parsePage(name string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{
		"asset":  assetURL,
		"attr":   attr,
		"ago":    func(t time.Time) string { return relative(time.Since(t)) },
		"until":  func(t time.Time) string { return relative(min(time.Since(t), 0)) },
		"past":   func(t time.Time) bool { return !t.After(time.Now()) },
		"took":   func(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) },
		"iso":    func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
		"exact":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"words":  func(state any) string { return strings.ReplaceAll(fmt.Sprint(state), "_", " ") },
		"count":  func(n int64) string { return humanize.Comma(n) },
		"short":  func(event string) string { return strings.TrimPrefix(event, "prediction.") },
		"reason": reason,
		"list":   func(items ...any) []any { return items },
	}).ParseFS(templateFiles, "templates/base.html", "templates/parts.html", "templates/"+name))
}

// relative returns how long ago something was. app.js uses the same words.
func relative(d time.Duration) string {
	text := func(n time.Duration) string {
		switch {
		case n >= 24*time.Hour:
			return strconv.Itoa(int(n/(24*time.Hour))) + " d"
		case n >= time.Hour:
			return strconv.Itoa(int(n/time.Hour)) + " h"
		case n >= time.Minute:
			return strconv.Itoa(int(n/time.Minute)) + " min"
		}
		return strconv.Itoa(int(n/time.Second)) + " s"
	}
	switch n := d.Abs(); {
	case n < 1500*time.Millisecond:
		return "now"
	case d < 0:
		return "in " + text(n)
	default:
		return text(n) + " ago"
	}
}

// span returns how long something took.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// size returns a number of bytes as text.
func size(n int) string {
	if n < 1024 {
		return strconv.Itoa(n) + " bytes"
	}
	return humanize.IBytes(uint64(n))
}

// section is an entry of the navigation.
type section struct{ Section, Name, Path string }

var sections = []section{
	{pageOverview, "Overview", ""},
	{pageDeliveries, "Deliveries", "deliveries"},
	{pageEvents, "Events", "events"},
	{pagePredictions, "Predictions", "predictions"},
	{pageEndpoints, "Endpoints", "endpoints"},
}

// frame holds what every page has.
type frame struct {
	Title   string
	Section string
	Up      string
	User    string
	Nav     []section
	Search  string // what was looked for
	Token   string
}

// render writes a page.
func render(w http.ResponseWriter, r *http.Request, status int, page string, data any) error {
	return write(w, r, status, page, "base", data)
}

// write is render with another template than base.
func write(w http.ResponseWriter, r *http.Request, status int, page, name string, data any) error {
	var b bytes.Buffer
	if err := templates[page].ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("rendering %s: %w", page, err)
	}
	text := visible(b.Bytes())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	// A client that is gone is nobody's error.
	_, _ = w.Write(text)
	return nil
}

// reason returns why an attempt failed, empty if its status says as much.
func reason(status int, err string) string {
	if err == fmt.Sprint("status ", status) {
		return ""
	}
	return err
}

const (
	// maxPretty is the payload that is indented.
	maxPretty = 1 << 20
	// maxShown is the number of bytes of a payload that are shown.
	maxShown = 64 << 10
)

// pretty indents JSON for reading, and reports whether only its beginning is
// shown.
func pretty(payload []byte) (text string, more bool) {
	if len(payload) <= maxPretty {
		var b bytes.Buffer
		if json.Indent(&b, payload, "", "  ") == nil {
			payload = b.Bytes()
		}
	}
	return cut(payload)
}

// cut returns the beginning of a text that is shown, and reports whether there is
// more.
func cut(text []byte) (string, bool) {
	more := len(text) > maxShown
	if more {
		text = text[:maxShown]
	}
	return strings.ToValidUTF8(string(text), ""), more
}
