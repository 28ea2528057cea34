package predictions

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// The members that clients and this handler speak in.
const (
	memberURL       = "webhook_url"
	memberEvents    = "webhook_events"
	memberTest      = "test_mode"
	memberStatus    = "webhook_status"
	memberCompleted = "webhook_completed"
)

// The members of the API itself for its own webhook.
const (
	nativeURL    = "webhook"
	nativeEvents = "webhook_events_filter"
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
// One byte is what large bodies are searched for fastest.
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

// edit gives a JSON object without the top-level members that drop names, and
// with extra, which is members without braces or empty, after the others. What
// remains of the source is a subsequence of its bytes: nothing is respelled or
// moved. doc is src parsed with its members.
func edit(src []byte, doc *ecmajson.Document, drop func(key string) bool, extra []byte) []byte {
	out := make([]byte, 0, len(src)+len(extra)+1)
	kept, end := 0, 0
	for m := range doc.EachMember() {
		if end == 0 {
			out = append(out, src[:m.KeyStart]...)
		}
		if !drop(m.Key) {
			if kept++; kept > 1 {
				// The comma, and the white space that this member stood in.
				out = append(out, src[end:m.KeyStart]...)
			}
			out = append(out, src[m.KeyStart:m.ValueEnd]...)
		}
		end = m.ValueEnd
	}
	if end == 0 { // {}
		end = bytes.IndexByte(src, '{') + 1
		out = append(out, src[:end]...)
	}
	if len(extra) > 0 {
		if kept > 0 {
			out = append(out, ',')
		}
		out = append(out, extra...)
	}
	return append(out, src[end:]...)
}

// cutRequest gives a create's body as the API is to see it: without our
// members and, with a callback URL, with the API's own webhook set to that.
func cutRequest(src []byte, doc *ecmajson.Document, callback string) []byte {
	var extra []byte
	if callback != "" {
		extra = append(extra, `"`+nativeURL+`":`...)
		extra = ecmajson.AppendString(extra, callback)
		extra = append(extra, `,"`+nativeEvents+`":["start","completed"]`...)
	}
	return edit(src, doc, func(key string) bool {
		switch key {
		case memberURL, memberEvents, memberTest:
			return true
		case nativeURL, nativeEvents:
			return callback != ""
		}
		return false
	}, extra)
}

// fields are what an answer says of a webhook.
type fields struct {
	url       string // empty: null
	status    store.WebhookStatus
	completed bool
	// ours tells the API's webhook that was set by cutRequest, which is not
	// the client's to see. nil: there was none.
	ours func(webhook string) bool
}

func fieldsOf(p *store.Prediction) fields {
	return fields{url: p.URL, status: p.Webhook, completed: p.Done()}
}

var nativeWebhook = ecmajson.NewSelector([]string{nativeURL})

// augment gives a prediction object with the fields, in the place of members of
// these names. It gives src itself if that is no JSON object.
func augment(src []byte, f fields) []byte {
	doc, err := ecmajson.Parse(src, withMembers, nativeWebhook)
	if err != nil || doc.Kind() != ecmajson.Object {
		return src
	}
	ours := false
	if f.ours != nil {
		if webhook, ok := doc.Value(0).Text(); ok {
			ours = f.ours(webhook)
		}
	}
	extra := make([]byte, 0, 96+len(f.url))
	extra = append(extra, `"`+memberURL+`":`...)
	if f.url == "" {
		extra = append(extra, "null"...)
	} else {
		extra = ecmajson.AppendString(extra, f.url)
	}
	extra = append(extra, `,"`+memberStatus+`":"`...)
	extra = append(extra, f.status.String()...)
	extra = append(extra, `","`+memberCompleted+`":`...)
	extra = strconv.AppendBool(extra, f.completed)
	return edit(src, doc, func(key string) bool {
		switch key {
		case memberURL, memberStatus, memberCompleted:
			return true
		case nativeURL, nativeEvents:
			return ours
		}
		return false
	}, extra)
}

var keyMember = ecmajson.NewSelector([]string{"key"})

// replaceKey gives the answer of a secret look-up with another key, and false
// for one that holds no key.
func replaceKey(src []byte, key string) ([]byte, bool) {
	doc, err := ecmajson.Parse(src, withMembers, keyMember)
	if err != nil || doc.Value(0).Kind() != ecmajson.String {
		return nil, false
	}
	extra := ecmajson.AppendString([]byte(`"key":`), key)
	return edit(src, doc, func(name string) bool { return name == "key" }, extra), true
}
