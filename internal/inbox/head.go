// Package inbox encodes what is kept of the request that brought an event, besides
// its body: see Head.
package inbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// Head is the request that brought an event, without its body, and what was
// verified of it.
type Head struct {
	Method string
	// OriginalURI is the request URI as it was received, and URI what the
	// handlers before the edge made of it.
	OriginalURI, URI string
	Host             string
	// TLS is the version of TLS, as crypto/tls numbers it, 0 without TLS.
	TLS uint16
	// ProtoMajor and ProtoMinor are the version of HTTP.
	ProtoMajor, ProtoMinor uint8
	Origin
	// Header holds the headers that are kept.
	Header http.Header
	Verified
}

// Origin is where a request came from.
type Origin struct {
	// RemoteAddr is the sender's end of the connection, with its port, and
	// LocalAddr the server's.
	RemoteAddr, LocalAddr string
	// ClientIP is the address of the client, as the server's trusted proxies
	// report it. Empty: that of RemoteAddr.
	ClientIP string
	// Trusted means that RemoteAddr is a trusted proxy's.
	Trusted bool
}

// Verified is what was verified of an event.
type Verified struct {
	// Schemes are those that verified.
	Schemes signature.Scheme
	// MessageID is the webhook-id, and SignedAt the webhook-timestamp in
	// seconds. They are empty and zero unless the standard scheme verified.
	MessageID string
	SignedAt  time.Time
	// JudgedAt is the signed time that the tolerance was applied to, in
	// nanoseconds, zero if it was not applied.
	JudgedAt time.Time
	// Signers are the fingerprints of the secrets that made the standard
	// signatures. There are none unless that scheme verified.
	Signers []signature.Fingerprint
	// Canonicalised means that the body is not what was received but its
	// ECMAScript form, so that no digest of the former is of use.
	Canonicalised bool
	// Duplicate means that the event was accepted before.
	Duplicate bool

	// Name, PredictionID and Status are those of the event.
	Name, PredictionID, Status string
}

// version begins every encoded head. A change of the encoding changes it, and
// DecodeHead goes on reading what older programs wrote.
const version = 1

// Flags of an encoded head.
const (
	flagRewritten = 1 << iota // URI is not OriginalURI
	flagTrusted
	flagCanonicalised
	flagDuplicate
	flagJudged // JudgedAt is not zero

	knownFlags = 1<<iota - 1
)

// Encode returns the head in the form that DecodeHead reads. Equal heads have equal
// forms.
func (h *Head) Encode() []byte {
	names := slices.AppendSeq(make([]string, 0, len(h.Header)), maps.Keys(h.Header))
	slices.Sort(names)
	// Room for what is not text, and for the lengths.
	size := 96 + len(h.Method) + len(h.OriginalURI) + len(h.URI) + len(h.Host) + len(h.RemoteAddr) + len(h.LocalAddr) + len(h.ClientIP) +
		len(h.MessageID) + len(h.Name) + len(h.PredictionID) + len(h.Status)
	for _, name := range names {
		size += len(name) + 4
		for _, value := range h.Header[name] {
			size += len(value) + 3
		}
	}
	b := make([]byte, 0, size)
	flags := h.flags()
	b = append(b, version, flags, h.ProtoMajor, h.ProtoMinor)
	b = binary.BigEndian.AppendUint16(b, h.TLS)
	b = appendText(b, h.Method)
	b = appendText(b, h.OriginalURI)
	if flags&flagRewritten != 0 {
		b = appendText(b, h.URI)
	}
	b = appendText(b, h.Host)
	b = appendText(b, h.RemoteAddr)
	b = appendText(b, h.LocalAddr)
	b = appendText(b, h.ClientIP)
	b = append(b, byte(h.Schemes))
	if h.Schemes.Has(signature.Standard) {
		b = appendText(b, h.MessageID)
		b = binary.AppendVarint(b, h.SignedAt.Unix())
		b = binary.AppendUvarint(b, uint64(len(h.Signers)))
		for _, f := range h.Signers {
			b = append(b, f[:]...)
		}
	}
	if flags&flagJudged != 0 {
		b = binary.AppendVarint(b, h.JudgedAt.Unix())
		b = binary.AppendUvarint(b, uint64(h.JudgedAt.Nanosecond()))
	}
	b = appendText(b, h.Name)
	b = appendText(b, h.PredictionID)
	b = appendText(b, h.Status)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		values := h.Header[name]
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, value := range values {
			b = appendText(b, value)
		}
	}
	return b
}

func (h *Head) flags() (flags byte) {
	set := func(flag byte, on bool) {
		if on {
			flags |= flag
		}
	}
	set(flagRewritten, h.URI != h.OriginalURI)
	set(flagTrusted, h.Trusted)
	set(flagCanonicalised, h.Canonicalised)
	set(flagDuplicate, h.Duplicate)
	set(flagJudged, !h.JudgedAt.IsZero())
	return flags
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Errors of DecodeHead.
var (
	errVersion = errors.New("it was written by a newer version of the plugin")
	errBroken  = errors.New("it is damaged")
)

// DecodeHead decodes what Encode returned. It refuses everything else: a version or
// flag that it does not know, and text that is missing or left over.
func DecodeHead(b []byte) (Head, error) {
	d := decoder{rest: b}
	h := d.head()
	switch {
	case d.err != nil:
	case len(d.rest) > 0:
		d.err = errBroken
	default:
		return h, nil
	}
	return Head{}, fmt.Errorf("reading the stored request of an event: %w", d.err)
}

// decoder reads values from the front of rest. After an error all are zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) head() (h Head) {
	if v := d.byte(); d.err == nil && v != version {
		d.err = errVersion
	}
	flags := d.byte()
	if d.err == nil && flags&^knownFlags != 0 {
		d.err = errVersion
	}
	is := func(flag byte) bool { return flags&flag != 0 }
	h.ProtoMajor, h.ProtoMinor = d.byte(), d.byte()
	if v := d.bytes(2); v != nil {
		h.TLS = binary.BigEndian.Uint16(v)
	}
	h.Method = d.text()
	h.OriginalURI = d.text()
	h.URI = h.OriginalURI
	if is(flagRewritten) {
		h.URI = d.text()
	}
	h.Host = d.text()
	h.RemoteAddr, h.LocalAddr, h.ClientIP, h.Trusted = d.text(), d.text(), d.text(), is(flagTrusted)
	h.Schemes = signature.Scheme(d.byte())
	if d.err == nil && h.Schemes&^(signature.Replicate|signature.Standard) != 0 {
		d.err = errVersion
	}
	h.Canonicalised, h.Duplicate = is(flagCanonicalised), is(flagDuplicate)
	if h.Schemes.Has(signature.Standard) {
		h.MessageID = d.text()
		h.SignedAt = time.Unix(d.varint(), 0).UTC()
		for range d.count() {
			var f signature.Fingerprint
			copy(f[:], d.bytes(len(f)))
			if d.err != nil {
				break
			}
			h.Signers = append(h.Signers, f)
		}
	}
	if is(flagJudged) {
		seconds, nanos := d.varint(), d.uvarint()
		if nanos >= uint64(time.Second) {
			d.fail()
		}
		h.JudgedAt = time.Unix(seconds, int64(nanos)).UTC()
	}
	h.Name, h.PredictionID, h.Status = d.text(), d.text(), d.text()
	h.Header = d.header()
	return h
}

func (d *decoder) header() http.Header {
	n := d.count()
	header := make(http.Header, n)
	for range n {
		name := d.text()
		if _, double := header[name]; double {
			d.fail()
		}
		values := make([]string, d.count())
		for i := range values {
			values[i] = d.text()
		}
		if d.err != nil {
			return nil
		}
		header[name] = values
	}
	return header
}

func (d *decoder) fail() {
	if d.err == nil {
		d.rest, d.err = nil, errBroken
	}
}

// bytes returns the next n bytes, nil if there are not as many.
func (d *decoder) bytes(n int) []byte {
	if d.err != nil || n > len(d.rest) {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count returns a number of things that follow, each of which takes a byte at
// least.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) text() string { return string(d.bytes(d.count())) }
