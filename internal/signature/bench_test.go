package signature_test

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// sizes are those of an ordinary prediction and of one with a large output.
var sizes = []struct {
	name  string
	bytes int
}{{"1.3KB", 1331}, {"1MB", 1 << 20}}

// BenchmarkSHA256 is the floor that the others are measured against.
func BenchmarkSHA256(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			body := make([]byte, size.bytes)
			b.SetBytes(int64(size.bytes))
			for b.Loop() {
				sha256.Sum256(body)
			}
		})
	}
}

func BenchmarkSignReplicate(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			s, body := secret(b, officialSecret), make([]byte, size.bytes)
			b.SetBytes(int64(size.bytes))
			b.ReportAllocs()
			for b.Loop() {
				s.SignReplicate(body)
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			secrets, body := []signature.Secret{secret(b, officialSecret)}, make([]byte, size.bytes)
			h, at := make(http.Header), time.Unix(1614265330, 0)
			b.SetBytes(int64(size.bytes))
			b.ReportAllocs()
			for b.Loop() {
				signature.Sign(h, secrets, officialID, at, body)
			}
		})
	}
}

func BenchmarkParseHeaders(b *testing.B) {
	h := headers(append(standard(officialID, officialTimestamp, officialSignature), "x-replicate-signature: "+hexDigest)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := signature.ParseHeaders(h, both); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify times hits and misses by scheme, where a miss is wrong in
// its first or in its last byte: the two should cost the same.
func BenchmarkVerify(b *testing.B) {
	one := secret(b, officialSecret)
	others := []signature.Secret{secret(b, plainSecret), secret(b, whsec(32, 1)), one}
	for _, size := range sizes {
		body := bytes.Repeat([]byte{'x'}, size.bytes)
		rep, std := one.SignReplicate(body), one.SignStandard("a", "1", body)
		for _, bm := range []struct {
			name    string
			lines   []string
			secrets []signature.Secret
			hit     bool
		}{
			{"replicate/hit", []string{"x-replicate-signature: " + rep}, others[2:], true},
			{"replicate/hit-3-secrets", []string{"x-replicate-signature: " + rep}, others, true},
			{"replicate/miss-first", []string{"x-replicate-signature: " + flip(rep, 0)}, others[2:], false},
			{"replicate/miss-last", []string{"x-replicate-signature: " + flip(rep, 63)}, others[2:], false},
			{"standard/hit", standard("a", "1", std), others[2:], true},
			{"standard/miss-first", standard("a", "1", flip(std, 3)), others[2:], false},
			{"standard/miss-last", standard("a", "1", flip(std, 44)), others[2:], false},
			{"both/hit", append(standard("a", "1", std), "x-replicate-signature: "+rep), others[2:], true},
		} {
			b.Run(bm.name+"/"+size.name, func(b *testing.B) {
				c, err := signature.ParseHeaders(headers(bm.lines...), both)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(size.bytes))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Verify(bm.secrets, body, nil); (err == nil) != bm.hit {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
