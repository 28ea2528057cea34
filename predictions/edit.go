package predictions

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// The members that clients and this handler use.
const (
	memberURL       = "webhook_url"
	memberEvents    = "webhook_events"
	memberTest      = "test_mode"
	memberStatus    = "webhook_status"
	memberCompleted = "webhook_completed"
)

// memberKey is the member with the key in the API's response to a look-up of the
// signing secret.
const memberKey = "key"

// The members of the API itself for its own webhook.
const (
	nativeURL    = prediction.MemberWebhook
	nativeEvents = prediction.MemberFilter
)

// withMembers asks the parser for where the members are.
var withMembers = ecmajson.Limits{Members: true}

// split are the names of our members, cut before the underscore that each has.
var split = func() (cut [3]struct{ start, rest []byte }) {
	for i, name := range []string{memberURL, memberEvents, memberTest} {
		at := strings.IndexByte(name, '_')
		cut[i].start, cut[i].rest = []byte(name[:at]), []byte(name[at:])
	}
	return cut
}()

// mentions reports whether a body could hold a member of ours, without parsing
// it. A key may be spelled with escapes.
//
// The search for one byte is the fastest in large bodies.
func mentions(body []byte) bool {
	if bytes.IndexByte(body[:min(len(body), 4)], 0) >= 0 || len(body) > 0 && body[0] >= 0xfe {
		return true // UTF-16
	}
	for at := 0; ; at++ {
		i := bytes.IndexByte(body[at:], '_')
		if i < 0 {
			break
		}
		at += i
		for i := range split {
			if bytes.HasPrefix(body[at:], split[i].rest) && bytes.HasSuffix(body[:at], split[i].start) {
				return true
			}
		}
	}
	for at := 0; ; at++ {
		i := bytes.IndexByte(body[at:], '\\')
		if i < 0 {
			return false
		}
		if at += i; at+1 < len(body) && (body[at+1] == 'u' || body[at+1] == 'x') {
			return true
		}
	}
}

// cutRequest returns the body of a create as the API is to see it: without our
// members and, with a callback URL, with the API's own webhook set to that.
func cutRequest(doc *ecmajson.Document, callback string) []byte {
	return doc.Edit(func(key string) ([]byte, bool) {
		switch key {
		case memberURL, memberEvents, memberTest:
			return nil, false
		case nativeURL, nativeEvents:
			return nil, callback == ""
		}
		return nil, true
	}, callbackMembers(callback, 0))
}

// cutNative is cutRequest where the API's own webhook is captured, for these events,
// among the members.
func cutNative(doc *ecmajson.Document, members memberSet, callback string, events event.Set) []byte {
	return doc.Edit(func(key string) ([]byte, bool) { return nil, !members.has(key) }, callbackMembers(callback, events))
}

// callbackMembers returns the members that have the API call a URL for what the tracker
// needs, and for the progress among the events. There are none without a URL.
func callbackMembers(callback string, events event.Set) []byte {
	if callback == "" {
		return nil
	}
	b := append([]byte(nil), `"`+nativeURL+`":`...)
	b = ecmajson.AppendString(b, callback)
	b = append(b, `,"`+nativeEvents+`":["start"`...)
	for _, e := range []event.Set{event.Output, event.Logs} {
		if events.Has(e) {
			b = append(append(b, ','), `"`+e.NativeName()+`"`...)
		}
	}
	return append(b, `,"completed"]`...)
}

// fields are the members of a response that describe a webhook.
type fields struct {
	url       string // empty: null
	events    event.Set
	status    store.WebhookStatus
	completed bool
	// ours reports whether the API's webhook is the one that was set by
	// cutRequest, which is not the client's to see. nil: none was set.
	ours func(webhook string) bool
}

func fieldsOf(p *store.Prediction) fields {
	return fields{url: p.URL, events: p.Events, status: p.Webhook, completed: p.Done()}
}

// members returns the fields as members of an object, without braces.
func (f *fields) members() []byte {
	b := make([]byte, 0, 96+len(f.url))
	b = append(b, `"`+memberURL+`":`...)
	b = prediction.AppendURL(b, f.url)
	return f.appendState(append(b, ','))
}

// appendState appends the members that say what has become of the webhook.
func (f *fields) appendState(b []byte) []byte {
	b = append(b, `"`+memberStatus+`":"`...)
	b = append(b, f.status.String()...)
	b = append(b, `","`+memberCompleted+`":`...)
	return strconv.AppendBool(b, f.completed)
}

// augment returns the object of a prediction with the fields, in the place of
// members of these names. webhook is the API's own webhook in it, or empty.
func augment(doc *ecmajson.Document, webhook string, f fields) []byte {
	if f.events.Has(event.Native) {
		return f.augmentNative(doc)
	}
	ours := f.ours != nil && webhook != "" && f.ours(webhook)
	return doc.Edit(func(key string) ([]byte, bool) {
		switch key {
		case memberURL, memberStatus, memberCompleted:
			return nil, false
		case nativeURL, nativeEvents:
			return nil, !ours
		}
		return nil, true
	}, f.members())
}

// augmentNative is augment where the API's own webhook was captured: its members say
// what the client has set, as in the API's own responses.
func (f *fields) augmentNative(doc *ecmajson.Document) []byte {
	filter := f.events.Filter()
	var extra []byte
	found := make(map[string]bool, len(nativeMembers))
	for m := range doc.EachMember() {
		found[m.Key] = true
	}
	if !found[nativeURL] {
		extra = append(prediction.AppendURL(append(extra, `"`+nativeURL+`":`...), f.url), ',')
	}
	if !found[nativeEvents] && filter != nil {
		extra = append(prediction.AppendFilter(append(extra, `"`+nativeEvents+`":`...), filter), ',')
	}
	native := prediction.NativeMembers(f.url, filter)
	return doc.Edit(func(key string) ([]byte, bool) {
		if key == memberStatus || key == memberCompleted {
			return nil, false
		}
		return native(key)
	}, f.appendState(extra))
}

// extend appends the fields to an object of our own making: it has members, none
// of which is a field, and nothing follows its brace.
func extend(object []byte, f fields) []byte {
	n := len(object) - 1
	return append(append(append(object[:n:n], ','), f.members()...), '}')
}

var keyMember = ecmajson.NewSelector([]string{memberKey})

// readKey reads the response to a look-up of the signing secret. It reports false
// for one that holds no key.
func readKey(src []byte) (*ecmajson.Document, bool) {
	doc, err := ecmajson.Parse(src, withMembers, keyMember)
	return doc, err == nil && doc.Value(0).Kind() == ecmajson.String
}

// replaceKey returns the response with another key.
func replaceKey(doc *ecmajson.Document, key string) []byte {
	extra := ecmajson.AppendString([]byte(`"`+memberKey+`":`), key)
	return doc.Edit(func(name string) ([]byte, bool) { return nil, name != memberKey }, extra)
}
