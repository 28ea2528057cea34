package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// response holds the parts of a response that the bench checks.
type response struct {
	status    int
	duplicate bool // X-Replicate-Duplicate: true
	marked    bool // the body holds the client's mark
	closing   bool // Connection: close
}

// client is one HTTP/1.1 connection. It does just enough of the protocol to
// cost the machine little: net/http's client would take as much CPU as the
// server it measures.
type client struct {
	addr     string
	deadline time.Time // of everything this client does
	mark     []byte    // looked for in every body; nil: bodies are skipped
	conn     net.Conn
	r        *bufio.Reader
	body     []byte
}

func newClient(addr string, deadline time.Time) *client {
	return &client{addr: addr, deadline: deadline, r: bufio.NewReaderSize(nil, 4<<10)}
}

// dial connects, if the client is not connected.
func (c *client) dial() error {
	if c.conn != nil {
		return nil
	}
	conn, err := (&net.Dialer{Deadline: c.deadline}).Dial("tcp", c.addr)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(c.deadline); err != nil {
		_ = conn.Close()
		return err
	}
	c.conn = conn
	c.r.Reset(conn)
	return nil
}

// do sends a request and reads the whole response. A connection that the server
// ends is made anew by the next call.
func (c *client) do(request []byte) (response, error) {
	if err := c.dial(); err != nil {
		return response{}, fmt.Errorf("connecting: %w", err)
	}
	if _, err := c.conn.Write(request); err != nil {
		c.close()
		return response{}, fmt.Errorf("sending: %w", err)
	}
	a, length, err := readResponse(c.r)
	if err == nil {
		a.marked, err = c.readBody(length)
	}
	if err != nil {
		c.close()
		return response{}, fmt.Errorf("reading the response: %w", err)
	}
	if a.closing {
		// The server must be the one that closes first: the side which does
		// keeps the port pair for a minute, and ours are few.
		_, _ = c.r.ReadByte()
		c.close()
	}
	return a, nil
}

// readBody reads a body and looks for the mark, or skips it.
func (c *client) readBody(length int) (marked bool, err error) {
	if c.mark == nil {
		_, err = c.r.Discard(length)
		return false, err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	if _, err = io.ReadFull(c.r, c.body); err != nil {
		return false, err
	}
	return bytes.Contains(c.body, c.mark), nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

var (
	headerLength    = []byte("content-length")
	headerClose     = []byte("connection")
	headerDuplicate = []byte("x-replicate-duplicate")
	headerTransfer  = []byte("transfer-encoding")

	errChunked  = errors.New("the response is chunked, which this client does not read")
	errNoLength = errors.New("the response has no content length")
)

// readResponse reads the head of one response, and how long its body is.
func readResponse(r *bufio.Reader) (a response, length int, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return a, 0, err
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return a, 0, fmt.Errorf("%.40q is no status line", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, 0, fmt.Errorf("%.40q is no status line", line)
	}
	length = -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return a, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, headerLength):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return a, 0, fmt.Errorf("content length is %.40q", value)
			}
		case bytes.EqualFold(name, headerClose):
			a.closing = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, headerDuplicate):
			a.duplicate = bytes.EqualFold(value, []byte("true"))
		case bytes.EqualFold(name, headerTransfer):
			return a, 0, errChunked
		}
	}
	if length < 0 {
		return a, 0, errNoLength
	}
	return a, length, nil
}
