package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// hookPath is where every receiver takes webhooks.
	hookPath = "/webhooks/replicate"

	// bodySize is a usual webhook: a prompt, a few parameters, some URLs.
	bodySize = 1300

	// idPrefix begins every prediction id; 16 hexadecimal digits of its
	// sequence number follow.
	idPrefix = "bench-"

	timeLayout = "2006-01-02T15:04:05.000Z"
)

// signer writes signed webhooks. It is cheap enough to run inside the measured
// window: about 2 µs a request, the same for whatever is measured.
type signer struct {
	secret string
	next   *atomic.Uint64
}

func newSigner() *signer {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails: see crypto/rand
	return &signer{secret: "whsec_" + base64.StdEncoding.EncodeToString(key[:]), next: new(atomic.Uint64)}
}

// template is one request whose id, time and signature are overwritten in place
// for each event, so that making one allocates nothing.
type template struct {
	request []byte
	id      []byte // these are windows into request
	stamp   []byte
	sig     []byte
	body    []byte
	mac     hash.Hash
	sum     [sha256.Size]byte
	scratch []byte
}

func (s *signer) template() *template {
	body := guideBody()
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\nX-Replicate-Signature: %s\r\n\r\n", hookPath, len(body), strings.Repeat("0", 2*sha256.Size))
	t := &template{request: []byte(head + body), mac: hmac.New(sha256.New, []byte(s.secret))}
	t.body = t.request[len(head):]
	t.sig = t.request[len(head)-4-2*sha256.Size : len(head)-4]
	at := strings.Index(body, idPrefix) + len(idPrefix)
	t.id = t.body[at : at+16]
	at = strings.LastIndex(body, `"timestamp":"`) + len(`"timestamp":"`)
	t.stamp = t.body[at : at+len(timeLayout)]
	return t
}

// write fills in the event's number and signs the event now.
func (t *template) write(n uint64) []byte {
	writeNumber(t.id, n)
	// Formatting writes all nine digits of the fraction before it cuts them
	// off, so it must not run in the body itself.
	t.scratch = time.Now().UTC().AppendFormat(t.scratch[:0], timeLayout)
	copy(t.stamp, t.scratch)
	t.mac.Reset()
	t.mac.Write(t.body)
	hex.Encode(t.sig, t.mac.Sum(t.sum[:0]))
	return t.request
}

// writeNumber writes n as hexadecimal digits that fill b.
func writeNumber(b []byte, n uint64) {
	const digits = "0123456789abcdef"
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[n&0xf]
		n >>= 4
	}
}

// guideBody returns a payload of the webhook guide, in the form of
// JSON.stringify, padded to bodySize by the prompt.
func guideBody() string {
	const form = `{"event":"prediction.completed","prediction":{"id":"` + idPrefix + `0000000000000000",` +
		`"version":"39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b",` +
		`"input":{"prompt":"%s","width":1024,"height":768,"guidance_scale":7.5,"num_outputs":2,"seed":4294967291,"refine":"expert_ensemble_refiner"},` +
		`"output":["https://files.example.com/out/6a1f0c3e/out-0.png","https://files.example.com/out/6a1f0c3e/out-1.png"],` +
		`"status":"succeeded","created_at":"2026-01-15T09:30:00.120Z","started_at":"2026-01-15T09:30:01.004Z","completed_at":"2026-01-15T09:30:07.881Z"},` +
		`"timestamp":"` + timeLayout + `"}`
	return fmt.Sprintf(form, prompt(bodySize-len(form)+len("%s")))
}

// prompt returns a text of that many bytes.
func prompt(size int) string {
	const words = "A serene landscape at dawn, mist over a lake, pines on the far shore, soft light, "
	return strings.Repeat(words, size/len(words)+1)[:size]
}

// A feed gives one connection its requests, false when there are no more. The
// bytes are valid until the next call.
type feed func() (request []byte, ok bool)

// uniqueFeed returns a feed of events that were not sent before.
func (s *signer) uniqueFeed() feed {
	t := s.template()
	return func() ([]byte, bool) { return t.write(s.next.Add(1) - 1), true }
}

// batch returns that many signed requests, to be sent repeatedly.
func (s *signer) batch(size int) [][]byte {
	t := s.template()
	out := make([][]byte, size)
	for i := range out {
		out[i] = append([]byte(nil), t.write(s.next.Add(1)-1)...)
	}
	return out
}

// forged returns requests of the same size with well-formed but wrong
// signatures.
func (s *signer) forged(size int) [][]byte {
	t := s.template()
	out := make([][]byte, size)
	for i := range out {
		t.write(s.next.Add(1) - 1)
		var wrong [sha256.Size]byte
		_, _ = rand.Read(wrong[:])
		hex.Encode(t.sig, wrong[:])
		out[i] = append([]byte(nil), t.request...)
	}
	return out
}

// cycle deals the batch out over the connections, over and over.
func cycle(batch [][]byte, connections int) []feed {
	feeds := make([]feed, connections)
	for i := range feeds {
		at := i * len(batch) / connections
		feeds[i] = func() ([]byte, bool) {
			request := batch[at]
			if at++; at == len(batch) {
				at = 0
			}
			return request, true
		}
	}
	return feeds
}

// once deals the batch out over the connections, each request exactly once.
func once(batch [][]byte, connections int) []feed {
	feeds := make([]feed, connections)
	for i := range feeds {
		at := i
		feeds[i] = func() ([]byte, bool) {
			if at >= len(batch) {
				return nil, false
			}
			request := batch[at]
			at += connections
			return request, true
		}
	}
	return feeds
}

// limited ends the feeds after that many requests in all.
func limited(feeds []feed, requests int) []feed {
	left := new(atomic.Int64)
	left.Store(int64(requests))
	out := make([]feed, len(feeds))
	for i, f := range feeds {
		out[i] = func() ([]byte, bool) {
			if left.Add(-1) < 0 {
				return nil, false
			}
			return f()
		}
	}
	return out
}
