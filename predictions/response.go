package predictions

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
)

// statusHeader has the value of webhook_status in a response whose body can't be
// changed.
const statusHeader = "X-Replicate-Webhook-Status"

// responseMode is the way in which a response of the upstream is handled.
type responseMode uint8

const (
	undecided responseMode = iota
	streaming              // it passes as it comes
	holding                // it is kept, until it is complete
	trailing               // it passes but for its last byte, and is scanned
	dropped                // nothing of it leaves
)

// reason is the reason why the body of a response is not changed.
type reason string

const (
	tooLarge  reason = "it is over max_body"
	noBudget  reason = "body_budget is used up"
	notObject reason = "it is not a JSON object"
	unusable  reason = "it can't be read as a prediction"
)

// response is the ResponseWriter behind which a prediction is expected. It holds
// what may be one, and lets everything else pass, without what is to be hidden.
//
// The first byte says what a response is: APIs send JSON with any content type. An
// encoded response is decoded first; the upstream was asked not to encode it.
type response struct {
	*caddyhttp.ResponseWriterWrapper
	h *Handler
	// holds reports whether a response of that status may be one to hold.
	// nil: none is.
	holds func(status int) bool
	// limit is the largest response held, in bytes. A larger one passes.
	limit int64
	// charge is the share of the budget that the held bytes take.
	charge *body.Charge
	// scan makes one that can't be held pass in the mode trailing.
	scan bool
	// hidden is kept from the client; nil: nothing is.
	hidden *conceal.URL
	// decodes has a response decoded although nothing of it is held or hidden.
	decodes bool
	// passing is called before the header of a response leaves that was to
	// be held. It may change the header, and the mode to dropped.
	passing func(reason)

	status   int
	unpacker *unpacker
	decoded  bool

	mode    responseMode
	begun   bool // a byte other than white space has come
	buf     *bytes.Buffer
	flushed bool
	// scanner has seen what passed in the mode trailing.
	scanner   prediction.Scanner
	last      []byte // the byte kept back, or none
	concealer *conceal.Writer
}

// succeeded is the default of holds: it reports a success with a body.
func succeeded(status int) bool {
	return status >= 200 && status <= 299 && status != http.StatusNoContent && status != http.StatusResetContent
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// keptBuffer is the largest buffer that goes back to the pool.
const keptBuffer = 256 << 10

func (h *Handler) newResponse(w http.ResponseWriter, r *http.Request, hidden *conceal.URL) *response {
	return &response{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		h:                     h,
		holds:                 succeeded,
		limit:                 h.MaxBody,
		charge:                h.budget.For(clientip.Of(r)),
		hidden:                hidden,
		passing:               func(reason) {},
	}
}

// readable returns the request with headers that make its response readable: not
// encoded, whole, and HTTP.
func readable(r *http.Request) *http.Request {
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	askReadable(r.Header)
	return r
}

func askReadable(h http.Header) {
	h.Set("Accept-Encoding", "identity")
	for _, name := range []string{"Range", "If-Range", "Upgrade"} {
		h.Del(name)
	}
}

// unconditional is readable for a response that may differ from what the client has
// although the API's has not changed.
func unconditional(r *http.Request) *http.Request {
	r = readable(r)
	r.Header.Del("If-None-Match")
	r.Header.Del("If-Modified-Since")
	return r
}

// errNoResponse is the error where the next handler is not a proxy, or there is none.
var errNoResponse = errors.New("no handler after replicate_predictions has responded: send its requests to the API, with reverse_proxy for example")

// from has the next handler respond. Where none does, Caddy would respond 200
// with nothing, which is no response of the API's.
func (a *response) from(next caddyhttp.Handler, r *http.Request) error {
	err := next.ServeHTTP(a, r)
	if err == nil && a.status == 0 {
		return a.h.fail(a, r, &problem{status: http.StatusBadGateway, detail: "the prediction API has not responded", cause: errNoResponse})
	}
	return err
}

// run has the next handler respond, and calls settle once nothing more will come,
// also when the handler panics, as a proxy does to abort a response that broke off.
// complete reports whether the response is whole.
func (a *response) run(next caddyhttp.Handler, r *http.Request, settle func(complete bool)) (err error) {
	returned := false
	defer func() {
		succeeded := returned && err == nil
		complete := succeeded
		if a.unpacker != nil {
			complete = a.unpacker.Close(!succeeded) == nil && succeeded
		}
		settle(complete)
		if succeeded && !complete {
			// What was decoded ends too soon: so must what the client reads.
			panic(http.ErrAbortHandler)
		}
	}()
	err = a.from(next, r)
	returned = true
	return err
}

// serve is run for a response of which one that is held is sent by whole, if it is
// complete. One that broke off passes as far as it came.
func (a *response) serve(next caddyhttp.Handler, r *http.Request, whole func()) error {
	return a.run(next, r, func(complete bool) {
		switch {
		case a.mode == holding && complete:
			whole()
		case a.mode == holding:
			a.letGo(false)
		default:
			a.finish(complete)
		}
	})
}

// WriteHeader decides on the first final status. Informational ones pass.
func (a *response) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		a.hidden.ConcealHeader(a.Header())
		a.ResponseWriterWrapper.WriteHeader(status)
		return
	}
	if a.status != 0 {
		return
	}
	a.status = status
	hold := a.holds != nil && a.holds(status)
	if hold || a.hidden != nil || a.decodes {
		a.unpack()
	}
	if hold {
		a.Header().Del(statusHeader) // it is ours alone
		a.mode = holding
		a.buf = buffers.Get().(*bytes.Buffer)
		return
	}
	if a.holds != nil && status >= 200 && status <= 299 {
		a.passing(notObject)
	}
	a.leave(streaming)
}

// unpack puts the decoding of an encoded response in front.
func (a *response) unpack() {
	list, known := codings(a.Header())
	if !known || len(list) == 0 || a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		return
	}
	a.decoded = true
	dropBodyHeaders(a.Header())
	a.Header().Del("Content-Length")
	a.unpacker = unpack(list, func(p []byte) error {
		if err := a.take(p); err != nil {
			return err
		}
		if a.flushed && a.mode != holding {
			return http.NewResponseController(a.ResponseWriter).Flush()
		}
		return nil
	})
}

// dropBodyHeaders deletes what describes bytes that are not sent.
func dropBodyHeaders(h http.Header) {
	for _, name := range []string{"Content-Encoding", "Etag", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5", "Accept-Ranges"} {
		h.Del(name)
	}
}

// leave sends the header; the body follows in the given mode.
func (a *response) leave(mode responseMode) {
	a.mode = mode
	if a.hidden != nil {
		a.hidden.ConcealHeader(a.Header())
		a.concealer = conceal.NewWriter(a.hidden, func(p []byte) error {
			_, err := a.ResponseWriterWrapper.Write(p)
			return err
		})
	}
	a.ResponseWriterWrapper.WriteHeader(a.status)
}

func (a *response) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.unpacker != nil {
		return a.unpacker.Write(p)
	}
	if err := a.take(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// take takes some of the decoded body.
func (a *response) take(p []byte) error {
	if a.mode == holding {
		why := a.judge(p)
		if why == "" {
			_, _ = a.buf.Write(p)
			return nil
		}
		if err := a.release(why); err != nil {
			return err
		}
	}
	return a.pass(p)
}

// judge returns why a response can't be held any more when p follows.
func (a *response) judge(p []byte) reason {
	if !a.begun {
		if text := bytes.TrimLeft(p, " \t\r\n\ufeff"); len(text) > 0 {
			if a.begun = true; text[0] != '{' {
				return notObject
			}
		}
	}
	switch {
	case int64(a.buf.Len()+len(p)) > a.limit:
		return tooLarge
	case !a.charge.Take(len(p)):
		return noBudget
	}
	return ""
}

// release lets go what was held.
func (a *response) release(why reason) error {
	mode := streaming
	if a.scan && why != notObject {
		mode = trailing
		a.scanner = prediction.NewScanner()
		_, _ = a.scanner.Write(a.buf.Bytes())
	}
	if a.passing(why); a.mode == dropped {
		a.free()
		return nil
	}
	held := a.buf
	a.buf = nil
	defer a.recycle(held)
	a.leave(mode)
	if mode == trailing {
		return a.trail(held.Bytes())
	}
	return a.send(held.Bytes())
}

// pass passes p on in the mode that was decided on.
func (a *response) pass(p []byte) error {
	switch a.mode {
	case dropped:
		return nil
	case trailing:
		_, _ = a.scanner.Write(p)
		return a.trail(p)
	}
	return a.send(p)
}

func (a *response) send(p []byte) (err error) {
	if a.concealer != nil {
		_, err = a.concealer.Write(p)
	} else if len(p) > 0 {
		_, err = a.ResponseWriterWrapper.Write(p)
	}
	return err
}

// trail passes p on one byte late.
func (a *response) trail(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if err := a.send(a.last); err != nil {
		return err
	}
	n := len(p) - 1
	if err := a.send(p[:n]); err != nil {
		return err
	}
	a.last = append(a.last[:0], p[n])
	return nil
}

// ReadFrom keeps the fast path of copying a response that passes.
func (a *response) ReadFrom(r io.Reader) (int64, error) {
	a.WriteHeader(http.StatusOK)
	if a.unpacker == nil && a.mode == streaming && a.concealer == nil {
		return a.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{a}, r)
}

// FlushError flushes what passes. What is held is not sent by a flush.
func (a *response) FlushError() error {
	a.WriteHeader(http.StatusOK)
	a.flushed = true
	if a.mode == holding || a.mode == dropped {
		return nil
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// finish sends the rest of a response that passes. One that broke off is
// flushed, so that its client gets all that came.
func (a *response) finish(complete bool) {
	if a.mode != streaming && a.mode != trailing {
		return
	}
	_ = a.send(a.last)
	a.last = nil
	if a.concealer != nil {
		_ = a.concealer.Close()
		a.hidden.ConcealHeader(a.Header()) // trailers
	}
	if !complete {
		_ = http.NewResponseController(a.ResponseWriter).Flush()
	}
}

// letGo sends what was held as it came, without what is hidden.
func (a *response) letGo(complete bool) {
	if a.passing(unusable); a.mode == dropped {
		a.free()
		return
	}
	body, changed := a.hidden.Conceal(a.buf.Bytes())
	if changed {
		dropBodyHeaders(a.Header())
	}
	if complete && a.decoded {
		a.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	a.leave(streaming)
	_, _ = a.ResponseWriterWrapper.Write(body)
	a.concealer = nil
	a.free()
	a.finish(complete)
}

// replace sends body in the place of what was held.
func (a *response) replace(body []byte) {
	h := a.Header()
	dropBodyHeaders(h)
	// The length is known: there is nothing for a trailer to follow.
	h.Del("Trailer")
	body, _ = a.hidden.Conceal(body)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.leave(streaming)
	_, _ = a.ResponseWriterWrapper.Write(body)
	a.concealer = nil
	a.free()
}

// held returns the object that was held, and the byte order mark before it.
func (a *response) held() (mark, object []byte) {
	b := a.buf.Bytes()
	object = bytes.TrimPrefix(b, []byte("\ufeff"))
	return b[:len(b)-len(object)], object
}

func (a *response) free() {
	if a.buf != nil {
		a.recycle(a.buf)
		a.buf = nil
	}
}

func (a *response) recycle(b *bytes.Buffer) {
	a.charge.Return()
	if b.Cap() <= keptBuffer {
		b.Reset()
		buffers.Put(b)
	}
}

// Interface guards.
var (
	_ http.ResponseWriter = (*response)(nil)
	_ io.ReaderFrom       = (*response)(nil)
)
