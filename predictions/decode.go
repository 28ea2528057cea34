package predictions

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd answer may ask for, in bytes. RFC
// 9659 has senders stay below it.
const maxWindow = 8 << 20

// errDecoded says that an answer is larger than it looked.
var errDecoded = errors.New("the decoded answer is too large")

// decode gives an answer's JSON. An answer is asked for unencoded, but some
// servers do as they like. What comes unencoded is not copied.
//
// Errors: errDecoded with the first limit bytes, or those of the encoding.
func decode(h http.Header, body []byte, limit int64) ([]byte, error) {
	if identity(h) {
		return body, nil
	}
	r, err := decoder(h, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	plain, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("decoding answer: %w", err)
	}
	if int64(len(plain)) > limit {
		return plain[:limit], errDecoded
	}
	return plain, nil
}

// decoder knows the codings of RFC 9110 and zstd, one at a time.
func decoder(h http.Header, body []byte) (io.ReadCloser, error) {
	coding := strings.ToLower(strings.TrimSpace(strings.Join(h["Content-Encoding"], ",")))
	switch coding {
	case "gzip", "x-gzip":
		return gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		// Deflate is zlib's format, but senders of the bare one are old
		// and many.
		src := bufio.NewReader(bytes.NewReader(body))
		if head, err := src.Peek(2); err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			return zlib.NewReader(src)
		}
		return flate.NewReader(src), nil
	case "zstd":
		d, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("decoding answer: content encoding %.32q is not known", coding)
}
