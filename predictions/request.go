package predictions

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// hook is the checked webhook of a request.
type hook struct {
	doc *ecmajson.Document
	// members are those that are captured.
	members memberSet
	// asked: it is to be captured. Otherwise members of ours hold nothing,
	// and are only cut out.
	asked  bool
	url    string
	events event.Set // 0: not given
	test   testMode
	// native: it is the API's own webhook that is to be captured.
	native bool
	// foreign: the client has set the API's own webhook for itself.
	foreign bool
	input   []byte // of the model, nil when missing
	version string
}

type testMode uint8

const (
	testOff testMode = iota
	testSuccess
	testFailure
)

// The paths of createMembers, in its order.
const (
	pathURL = iota
	pathEvents
	pathTest
	pathNative
	pathFilter
	pathInput
	pathVersion
)

var createMembers = ecmajson.NewSelector(
	[]string{memberURL},
	[]string{memberEvents},
	[]string{memberTest},
	[]string{nativeURL},
	[]string{nativeEvents},
	[]string{"input"},
	[]string{"version"},
)

// readCreate reads the webhook of a create's body. It returns nil and no error
// for a body that is not ours: one that does not name the members. checkURL
// checks the URL. Errors are *problem.
//
// A webhook of the API's own whose events can't all be captured is none of ours, and
// its URL not checked. allEvents reports whether they can.
func (m memberSet) readCreate(body []byte, checkURL func(string) error, allEvents func(event.Set) bool) (*hook, error) {
	doc, err := ecmajson.Parse(body, withMembers, createMembers)
	switch {
	case err != nil:
		// An API may well take what our parser does not, and then the
		// client would wait in vain for its webhook.
		f := m.finder()
		if _, _ = f.Write(body); f.Found() != "" {
			return nil, cannotAct(f.Found(), body, err)
		}
		return nil, nil
	case doc.Kind() != ecmajson.Object:
		return nil, nil
	}
	count := make(map[string]int, len(m))
	for member := range doc.EachMember() {
		if m.has(member.Key) {
			count[member.Key]++
		}
	}
	if len(count) == 0 {
		return nil, nil
	}
	for name, n := range count {
		if n > 1 {
			return nil, unprocessable("%s is given %d times", name, n)
		}
	}
	if m.has(nativeURL) && present(doc.Value(pathNative)) {
		return m.readNative(doc, checkURL, allEvents)
	}
	if !m.has(memberURL) {
		return nil, nil
	}
	h := &hook{
		doc:     doc,
		members: m,
		foreign: present(doc.Value(pathNative)),
		input:   doc.Value(pathInput).Raw(),
	}
	h.version, _ = doc.Value(pathVersion).Text()
	if h.events, h.test, err = readOwn(doc); err != nil {
		return nil, err
	}
	if h.url, err = readURL(memberURL, doc.Value(pathURL), checkURL); err != nil {
		return nil, err
	}
	if h.asked = h.url != ""; !h.asked {
		if err := needsURL(h.events, h.test); err != nil {
			return nil, err
		}
	}
	if k := doc.Value(pathInput).Kind(); h.test != testOff && k != ecmajson.Object && k != ecmajson.Missing {
		return nil, unprocessable("input must be an object")
	}
	return h, nil
}

// readOwn reads what the client asks of this server besides a URL. Errors are *problem.
func readOwn(doc *ecmajson.Document) (events event.Set, test testMode, err error) {
	if events, err = readEvents(doc.Value(pathEvents)); err == nil {
		test, err = readTestMode(doc.Value(pathTest))
	}
	return events, test, err
}

// needsURL returns the *problem of what is asked without a webhook_url, or nil.
func needsURL(events event.Set, test testMode) error {
	switch {
	case events != 0:
		return unprocessable("%s needs a %s", memberEvents, memberURL)
	case test != testOff:
		return unprocessable("%s needs a %s to send its events to", memberTest, memberURL)
	}
	return nil
}

// present reports whether a member is there and not null.
func present(v ecmajson.Value) bool { return v.Kind() != ecmajson.Missing && v.Kind() != ecmajson.Null }

// readNative reads the API's own webhook. Errors are *problem.
func (m memberSet) readNative(doc *ecmajson.Document, checkURL func(string) error, allEvents func(event.Set) bool) (*hook, error) {
	if present(doc.Value(pathURL)) {
		p := unprocessable("%s and %s are both given: keep one of them", nativeURL, memberURL)
		p.member = nativeURL
		return nil, p
	}
	if m.has(memberURL) {
		// A create that was meant as a test costs money at an API that does
		// not know the member.
		events, test, err := readOwn(doc)
		if err == nil {
			err = needsURL(events, test)
		}
		if err != nil {
			return nil, err
		}
	}
	h := &hook{doc: doc, members: m, asked: true, native: true}
	var err error
	if h.events, err = readFilter(doc.Value(pathFilter)); err != nil {
		return nil, err
	}
	if !allEvents(h.events) {
		return nil, nil
	}
	if h.url, err = readURL(nativeURL, doc.Value(pathNative), checkURL); err != nil {
		return nil, err
	}
	return h, nil
}

// readFilter reads a webhook_events_filter. A null, or an empty one, is none.
func readFilter(v ecmajson.Value) (event.Set, error) {
	var names []string
	if present(v) {
		if v.Kind() != ecmajson.Array || len(v.Raw()) > maxEvents || json.Unmarshal(v.Raw(), &names) != nil {
			return 0, unprocessable("%s must be an array of names", nativeEvents)
		}
	}
	set, err := event.ForFilter(names)
	if err != nil {
		return 0, unprocessable("%s holds a wrong name: %v", nativeEvents, err)
	}
	return set, nil
}

// cut returns the body of the create as the API is to see it, with a callback URL as
// its own webhook, if there is one.
func (h *hook) cut(callback string) []byte {
	if h.native {
		return cutNative(h.doc, h.members, callback, h.events)
	}
	return cutRequest(h.doc, callback)
}

// readURL reads the URL of a webhook, the value of the named member. A null is none.
func readURL(member string, v ecmajson.Value, check func(string) error) (string, error) {
	if !present(v) {
		return "", nil
	}
	url, ok := v.Text()
	if !ok {
		return "", unprocessable("%s must be a string or null", member)
	}
	if err := check(url); err != nil {
		p := unprocessable("%v", err)
		var wrong *egress.URLError
		if errors.As(err, &wrong) {
			p.detail = member + " " + wrong.Problem
		}
		p.member = member
		return "", p
	}
	return url, nil
}

// maxEvents bounds the text of a webhook_events, in bytes.
const maxEvents = 4 << 10

// readEvents reads a webhook_events. A null is none.
func readEvents(v ecmajson.Value) (event.Set, error) {
	if !present(v) {
		return 0, nil
	}
	wrong := func(format string, args ...any) (event.Set, error) {
		return 0, unprocessable(memberEvents+" "+format+": it is an array of started, completed and failed, with or without prediction. before them", args...)
	}
	if v.Kind() != ecmajson.Array {
		return wrong("must be an array")
	}
	if len(v.Raw()) > maxEvents {
		return wrong("is too long")
	}
	var items []any
	if err := json.Unmarshal(v.Raw(), &items); err != nil {
		return wrong("can't be read")
	}
	var set event.Set
	for _, item := range items {
		name, ok := item.(string)
		if !ok {
			return wrong("must hold strings")
		}
		e, err := event.Parse(name)
		if err != nil {
			return 0, unprocessable("%s holds a wrong name: %v", memberEvents, err)
		}
		set |= e
	}
	if set == 0 {
		return wrong("is empty")
	}
	return set, nil
}

func readTestMode(v ecmajson.Value) (testMode, error) {
	switch string(v.Raw()) {
	case "", "null", "false":
		return testOff, nil
	case "true", `"prediction.completed"`, `"completed"`:
		return testSuccess, nil
	case `"prediction.failed"`, `"failed"`:
		return testFailure, nil
	}
	return testOff, unprocessable("%s must be true, false, \"prediction.completed\" or \"prediction.failed\"", memberTest)
}

// patch is the body of an update.
type patch struct {
	hasURL bool
	url    string    // empty: null
	events event.Set // 0: not given
}

var patchMembers = ecmajson.NewSelector([]string{memberURL}, []string{memberEvents})

// readPatch reads an update's body. Errors are *problem.
func readPatch(body []byte, checkURL func(string) error) (p patch, err error) {
	doc, err := ecmajson.Parse(body, withMembers, patchMembers)
	if err != nil {
		return p, &problem{status: http.StatusBadRequest, detail: fmt.Sprintf("the body can't be read: %v", err)}
	}
	if doc.Kind() != ecmajson.Object {
		return p, unprocessable("the body must be a JSON object")
	}
	seen := make(map[string]bool, 2)
	for m := range doc.EachMember() {
		switch {
		case m.Key != memberURL && m.Key != memberEvents:
			return p, unprocessable("%.64q can't be updated: %s and %s can", m.Key, memberURL, memberEvents)
		case seen[m.Key]:
			return p, unprocessable("%s is given twice", m.Key)
		}
		seen[m.Key] = true
	}
	p.hasURL = doc.Value(0).Kind() != ecmajson.Missing
	if p.url, err = readURL(memberURL, doc.Value(0), checkURL); err != nil {
		return p, err
	}
	if p.events, err = readEvents(doc.Value(1)); err != nil {
		return p, err
	}
	if !p.hasURL && p.events == 0 {
		return p, unprocessable("there is nothing to update: give %s or %s", memberURL, memberEvents)
	}
	return p, nil
}

// isJSON reports whether a Content-Type is one of JSON. For an absent one it
// returns absent.
func isJSON(contentType string, absent bool) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if media == "" {
		return absent
	}
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// identity reports whether a body is not encoded.
func identity(h http.Header) bool {
	for _, v := range h["Content-Encoding"] {
		if v = strings.TrimSpace(v); v != "" && !strings.EqualFold(v, "identity") {
			return false
		}
	}
	return true
}
