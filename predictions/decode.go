package predictions

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd body may ask for, in bytes. RFC 9659
// has senders stay below it.
const maxWindow = 8 << 20

// maxCodings bounds how often a body may be encoded.
const maxCodings = 4

// codings returns the content codings of a body in the order in which they were
// applied, and false if one is unknown. Identity is none.
func codings(h http.Header) (list []string, known bool) {
	for _, value := range h["Content-Encoding"] {
		for name := range strings.SplitSeq(value, ",") {
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case "", "identity":
			case "gzip", "x-gzip", "deflate", "zstd", "br":
				list = append(list, name)
			default:
				return nil, false
			}
		}
	}
	return list, len(list) <= maxCodings
}

// decoder returns a reader of what was encoded in src. A body that only claims
// the coding is read as it is.
func decoder(coding string, src *bufio.Reader) (io.Reader, error) {
	head, _ := src.Peek(4)
	begins := func(magic string) bool { return strings.HasPrefix(string(head), magic) }
	if len(head) == 0 || begins("{") {
		// An empty body, or JSON that was decoded on its way. No encoded
		// object begins with a brace.
		return src, nil
	}
	switch coding {
	case "gzip", "x-gzip":
		if begins("\x1f\x8b") {
			return gzip.NewReader(src)
		}
	case "deflate":
		// Deflate is zlib's format, but senders of the bare one are old
		// and many.
		if len(head) > 1 && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			return zlib.NewReader(src)
		}
		return flate.NewReader(src), nil
	case "zstd":
		if begins("\x28\xb5\x2f\xfd") {
			return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		}
	case "br":
		return brotli.NewReader(src), nil
	}
	return src, nil
}

// decode returns a reader of a body's content.
func decode(src io.Reader, codings []string) (io.Reader, error) {
	for i := len(codings) - 1; i >= 0; i-- {
		r, err := decoder(codings[i], bufio.NewReader(src))
		if err != nil {
			return nil, fmt.Errorf("decoding %s: %w", codings[i], err)
		}
		src = r
	}
	return src, nil
}

// unpacker decodes what is written to it and hands the content to a sink. The
// decoders read, so they run in a goroutine of their own, which ends with Close.
// It runs only while Write or Close waits for it, so that the sink may use what
// the writer uses.
type unpacker struct {
	chunks chan []byte
	idle   chan struct{} // a chunk has been decoded, and the next one is wanted
	done   chan struct{}
	end    error // what follows the last chunk, set before chunks is closed
	err    error // set before done is closed
}

func unpack(codings []string, sink func([]byte) error) *unpacker {
	u := &unpacker{chunks: make(chan []byte), idle: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		u.err = u.run(codings, sink)
	}()
	return u
}

func (u *unpacker) run(codings []string, sink func([]byte) error) error {
	content, err := decode(&chunkReader{u: u}, codings)
	if err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := content.Read(buf)
		if n > 0 {
			if err := sink(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("decoding: %w", err)
		}
	}
}

// chunkReader is the input of the decoders of an unpacker.
type chunkReader struct {
	u     *unpacker
	rest  []byte // of the last chunk
	begun bool
	ended bool
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.ended {
			return 0, r.u.end
		}
		if r.begun {
			r.u.idle <- struct{}{}
		}
		r.begun = true
		chunk, ok := <-r.u.chunks
		r.rest, r.ended = chunk, !ok
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Write returns when p has been decoded. Once decoding has ended, it returns the
// error that ended it, or drops what follows the encoded body.
func (u *unpacker) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case u.chunks <- p:
		select {
		case <-u.idle:
			return len(p), nil
		case <-u.done:
		}
	case <-u.done:
	}
	if u.err != nil {
		return 0, u.err
	}
	return len(p), nil
}

// Close ends the body, in its middle if cut, and waits until all that can be
// decoded of it is. It returns why that is not all.
func (u *unpacker) Close(cut bool) error {
	if u.end = io.EOF; cut {
		u.end = io.ErrUnexpectedEOF
	}
	close(u.chunks)
	<-u.done
	if u.err == nil && cut {
		return io.ErrUnexpectedEOF
	}
	return u.err
}
