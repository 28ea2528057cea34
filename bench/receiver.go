package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveReceiverArg makes this binary a receiver of the webhooks that Caddy
// delivers. With a number after it, it is that many receivers that hang.
const serveReceiverArg = "serve-receiver"

const (
	countPath    = "/_bench/count"
	receiptsPath = "/_bench/receipts"
)

// receipt is one webhook that a receiver took: the number of its prediction,
// which event it was, and when it came.
type receipt struct {
	number   uint64
	terminal bool
	at       time.Time
}

// receiptSize is a receipt on the wire: number and event, and nanoseconds.
const receiptSize = 16

// counts is what a receiver says of itself: webhooks taken or, where it hangs,
// held at the moment, and webhooks refused.
type counts struct{ taken, refused int }

// receiving is the receiver's own side. Like the load generator it speaks just
// enough HTTP to cost the machine little.
type receiving struct {
	secret []byte
	key    []byte // of Standard Webhooks
	hang   bool

	mu       sync.Mutex
	receipts []byte
	counts
	reason string // of the last refusal
}

// serveReceiver takes webhooks until its stdin ends.
func serveReceiver(args []string) error {
	// One thread is enough, and spares the machine the search for work by others.
	runtime.GOMAXPROCS(1)
	secret := os.Getenv(secretEnv)
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return fmt.Errorf("reading the secret: %w", err)
	}
	r := &receiving{secret: []byte(secret), key: key}
	addrs := []string{"127.0.0.1:0"}
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of receivers", args[0])
		}
		r.hang = true
		port, err := freePorts(1)
		if err != nil {
			return err
		}
		addrs = port
		for i := range n {
			addrs = append(addrs, hangingAddr(i, port[0]))
		}
	}
	var first net.Listener
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		if first == nil {
			first = ln
		}
		go r.accept(ln)
	}
	fmt.Println("listening", first.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// hangingAddr returns the address of a receiver that hangs. Each has an
// address, and so an endpoint, of its own.
func hangingAddr(i int, control string) string {
	_, port, _ := net.SplitHostPort(control)
	return net.JoinHostPort(fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250), port)
}

func (r *receiving) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			defer c.Close()
			_ = r.serve(c)
		}()
	}
}

var (
	headerSignature = []byte("X-Replicate-Signature")
	headerEvent     = []byte("X-Replicate-Event")
	eventStarted    = []byte("prediction.started")
	eventCompleted  = []byte("prediction.completed")
	nativeStarted   = []byte("start")
	nativeCompleted = []byte("completed")
	headerID        = []byte("Webhook-Id")
	headerTimestamp = []byte("Webhook-Timestamp")
	headerStandard  = []byte("Webhook-Signature")
	okResponse      = []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
	noResponse      = []byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
)

// serve responds to the requests of one connection.
func (r *receiving) serve(c net.Conn) error {
	br := bufio.NewReaderSize(c, 16<<10)
	h := hook{mac: hmac.New(sha256.New, r.secret), standardMAC: hmac.New(sha256.New, r.key)}
	for {
		control, err := h.read(br)
		if err != nil {
			return err
		}
		response := okResponse
		switch {
		case control != "":
			response = r.control(control)
		case r.hang:
			r.count(1)
			_, err := io.Copy(io.Discard, br) // until the sender gives up
			r.count(-1)
			return err
		case !r.take(&h, time.Now()):
			response = noResponse
		}
		if _, err := c.Write(response); err != nil {
			return err
		}
	}
}

func (r *receiving) count(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken += n
}

// control responds to the bench.
func (r *receiving) control(path string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var body []byte
	switch path {
	case countPath:
		body = fmt.Appendf(nil, "%d %d %s", r.taken, r.refused, r.reason)
	case receiptsPath:
		body, r.receipts = r.receipts, nil
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// take verifies a webhook and keeps its receipt.
func (r *receiving) take(h *hook, at time.Time) bool {
	reason := h.check()
	r.mu.Lock()
	defer r.mu.Unlock()
	if reason != "" {
		r.refused++
		r.reason = reason
		return false
	}
	r.taken++
	n := h.number << 1
	if h.terminal {
		n |= 1
	}
	r.receipts = binary.LittleEndian.AppendUint64(r.receipts, n)
	r.receipts = binary.LittleEndian.AppendUint64(r.receipts, uint64(at.UnixNano()))
	return true
}

// hook is a webhook as it is read, with buffers for the next one.
type hook struct {
	body, signature, event  []byte
	id, timestamp, standard []byte // of Standard Webhooks
	mac, standardMAC        hash.Hash
	sum                     [sha256.Size]byte
	hex                     [2 * sha256.Size]byte
	number                  uint64
	terminal                bool
}

// read reads one request. For a GET it gives its path.
func (h *hook) read(br *bufio.Reader) (control string, err error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	if path, ok := bytes.CutPrefix(line, []byte("GET ")); ok {
		path, _, _ = bytes.Cut(path, []byte(" "))
		control = string(path)
	}
	length := 0
	h.signature, h.event = h.signature[:0], h.event[:0]
	h.id, h.timestamp, h.standard = h.id[:0], h.timestamp[:0], h.standard[:0]
	for {
		if line, err = br.ReadSlice('\n'); err != nil {
			return "", err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, headerLength):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > 1<<20 {
				return "", fmt.Errorf("content length is %.40q", value)
			}
		case bytes.EqualFold(name, headerSignature):
			h.signature = append(h.signature, value...)
		case bytes.EqualFold(name, headerEvent):
			h.event = append(h.event, value...)
		case bytes.EqualFold(name, headerID):
			h.id = append(h.id, value...)
		case bytes.EqualFold(name, headerTimestamp):
			h.timestamp = append(h.timestamp, value...)
		case bytes.EqualFold(name, headerStandard):
			h.standard = append(h.standard, value...)
		}
	}
	if cap(h.body) < length {
		h.body = make([]byte, length)
	}
	h.body = h.body[:length]
	_, err = io.ReadFull(br, h.body)
	return control, err
}

// check returns what is wrong with a webhook, "" if nothing is.
func (h *hook) check() string {
	started, completed := eventStarted, eventCompleted
	if len(h.signature) == 0 { // of the API's own kind
		started, completed = nativeStarted, nativeCompleted
		h.standardMAC.Reset()
		for i, part := range [][]byte{h.id, h.timestamp, h.body} {
			if i > 0 {
				h.standardMAC.Write([]byte("."))
			}
			h.standardMAC.Write(part)
		}
		if string(h.standard) != "v1,"+base64.StdEncoding.EncodeToString(h.standardMAC.Sum(h.sum[:0])) {
			return "wrong signature of Standard Webhooks"
		}
	} else {
		h.mac.Reset()
		h.mac.Write(h.body)
		hex.Encode(h.hex[:], h.mac.Sum(h.sum[:0]))
		if !hmac.Equal(h.hex[:], h.signature) {
			return "wrong signature"
		}
	}
	h.terminal = bytes.Equal(h.event, completed)
	if !h.terminal && !bytes.Equal(h.event, started) {
		return fmt.Sprintf("event is %.40q", h.event)
	}
	var ok bool
	if h.number, ok = numberOf(h.body); !ok {
		return fmt.Sprintf("no prediction of the bench: %.200q", h.body)
	}
	return ""
}

// receiver is a running receiver as the bench sees it.
type receiver struct {
	*process
	addr string
}

// startReceiver starts a receiver; with hanging, that many which hang.
func (l *lab) startReceiver(ctx context.Context, hanging int) (*receiver, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, serveReceiverArg)
	if hanging > 0 {
		cmd.Args = append(cmd.Args, strconv.Itoa(hanging))
	}
	cmd.Env = append(os.Environ(), secretEnv+"="+l.signer.secret)
	p, addr, err := startListening(ctx, "the receiver", cmd)
	if err != nil {
		return nil, err
	}
	l.onClose(p.stop)
	return &receiver{p, addr}, nil
}

func (r *receiver) url() string { return "http://" + r.addr + hookPath }

func (r *receiver) counts(ctx context.Context) (c counts, err error) {
	body, err := get(ctx, "http://"+r.addr+countPath)
	if err != nil {
		return c, fmt.Errorf("asking the receiver: %w", err)
	}
	fields := bytes.SplitN(body, []byte(" "), 3)
	if len(fields) < 3 {
		return c, fmt.Errorf("asking the receiver: %.40q", body)
	}
	if _, err := fmt.Sscan(string(body), &c.taken, &c.refused); err != nil {
		return c, fmt.Errorf("asking the receiver: %w", err)
	}
	if c.refused > 0 {
		err = fmt.Errorf("the receiver refused %d webhooks, the last for: %s", c.refused, fields[2])
	}
	return c, err
}

// quietWait is how long the receiver may go without a webhook while some are
// owed to it.
const quietWait = 20 * time.Second

// await waits until the receiver has taken that many webhooks in all.
func (r *receiver) await(ctx context.Context, total int) error {
	last, heard := -1, time.Now()
	for {
		c, err := r.counts(ctx)
		if err != nil {
			return err
		}
		if c.taken >= total {
			return nil
		}
		if c.taken != last {
			last, heard = c.taken, time.Now()
		}
		if time.Since(heard) > quietWait {
			return fmt.Errorf("the receiver got %d of %d webhooks, and no more for %s", c.taken, total, quietWait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// take returns the receipts since the last call, in the order in which the
// webhooks came.
func (r *receiver) take(ctx context.Context) ([]receipt, error) {
	body, err := get(ctx, "http://"+r.addr+receiptsPath)
	if err != nil {
		return nil, fmt.Errorf("asking the receiver: %w", err)
	}
	out := make([]receipt, 0, len(body)/receiptSize)
	for ; len(body) >= receiptSize; body = body[receiptSize:] {
		n := binary.LittleEndian.Uint64(body)
		out = append(out, receipt{n >> 1, n&1 == 1, time.Unix(0, int64(binary.LittleEndian.Uint64(body[8:])))})
	}
	return out, nil
}

// lifecycles are the receipts of both events of predictions lo to hi.
type lifecycles struct {
	lo                  uint64
	started, terminal   []time.Time // by number
	firstCame, lastCame time.Time
}

// expectOnce checks that the receipts are of both events of each prediction lo
// to hi, hi not included, each once and in their order.
func expectOnce(receipts []receipt, lo, hi uint64) (*lifecycles, error) {
	n := hi - lo
	c := &lifecycles{lo: lo, started: make([]time.Time, n), terminal: make([]time.Time, n)}
	for i, r := range receipts {
		if r.number < lo || r.number >= hi {
			return nil, fmt.Errorf("a webhook of prediction %d was received, which is not among %d to %d", r.number, lo, hi)
		}
		at, name := &c.started[r.number-lo], "started"
		if r.terminal {
			at, name = &c.terminal[r.number-lo], "completed"
		}
		if !at.IsZero() {
			return nil, fmt.Errorf("prediction.%s of %d was received twice", name, r.number)
		}
		if r.terminal && c.started[r.number-lo].IsZero() {
			return nil, fmt.Errorf("prediction.completed of %d was received before prediction.started", r.number)
		}
		*at = r.at
		if i == 0 {
			c.firstCame = r.at
		}
		c.lastCame = r.at
	}
	if uint64(len(receipts)) != 2*n {
		return nil, fmt.Errorf("%d webhooks were received, want both events of %d predictions", len(receipts), n)
	}
	return c, nil
}
