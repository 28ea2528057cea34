package inbox

import (
	"crypto/tls"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// full is a head in which every field is set.
func full() Head {
	return Head{
		Method: "POST", OriginalURI: "/webhooks/replicate?a=b", URI: "/replicate?a=b", Host: "hooks.example.com:8443",
		TLS: tls.VersionTLS13, ProtoMajor: 2, ProtoMinor: 0,
		Origin: Origin{RemoteAddr: "192.0.2.7:50123", LocalAddr: "192.0.2.1:443", ClientIP: "2001:db8::1", Trusted: true},
		Header: http.Header{
			"Content-Type":          {"application/json"},
			"User-Agent":            {"replicate/1"},
			"X-Forwarded-For":       {"192.0.2.1", "192.0.2.2"},
			"X-Replicate-Signature": {strings.Repeat("0f", 32)},
			"Webhook-Id":            {"msg_1"},
			"Webhook-Timestamp":     {"1614265330"},
			"Webhook-Signature":     {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
			"X-Empty":               {""},
		},
		Verified: Verified{
			Schemes: signature.Replicate | signature.Standard, MessageID: "msg_1",
			SignedAt: time.Unix(1614265330, 0).UTC(), JudgedAt: time.Unix(1614265331, 5).UTC(),
			Signers: []signature.Fingerprint{{1, 2, 3, 4, 5, 6, 7, 8}, {8, 7, 6, 5, 4, 3, 2, 1}}, Canonicalised: true, Duplicate: true,
			Name: "prediction.completed", PredictionID: "p1", Status: "succeeded",
		},
	}
}

func TestHeadIsReadAsItWasWritten(t *testing.T) {
	replicate := full()
	replicate.Verified = Verified{Schemes: signature.Replicate, JudgedAt: time.Unix(-1, 999999999).UTC()}
	same := full()
	same.URI = same.OriginalURI
	for name, h := range map[string]Head{
		"everything":        full(),
		"nothing":           {Header: http.Header{}},
		"replicate alone":   replicate,
		"not rewritten":     same,
		"rewritten to \"\"": {OriginalURI: "/a", Header: http.Header{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeHead(h.Encode())
			if err != nil || !reflect.DeepEqual(got, h) {
				t.Errorf("read %+v, %v\nwant %+v", got, err, h)
			}
		})
	}
}

// TestEveryFieldOfAHeadIsEncoded: a field that is added and not encoded would be
// lost silently.
func TestEveryFieldOfAHeadIsEncoded(t *testing.T) {
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]() {
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		}
		if v.IsZero() && path != "Head.ProtoMinor" {
			t.Errorf("%s is not set in full", path)
		}
	}
	walk("Head", reflect.ValueOf(full()))
	minor := Head{ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
	if got, err := DecodeHead(minor.Encode()); err != nil || got.ProtoMinor != 1 {
		t.Errorf("ProtoMinor is %d, %v", got.ProtoMinor, err)
	}
}

func TestEqualHeadsHaveEqualForms(t *testing.T) {
	h := full()
	want := string(h.Encode())
	for range 50 {
		if again := full(); string(again.Encode()) != want {
			t.Fatal("the form of equal heads differs")
		}
	}
}

func TestUnknownHeadsAreRefused(t *testing.T) {
	h := full()
	good := h.Encode()
	changed := func(at int, to byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = to
		return b
	}
	for name, test := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":          {nil, "damaged"},
		"another version":  {changed(0, version+1), "newer version"},
		"another flag":     {changed(1, 0x80), "newer version"},
		"something behind": {append(append([]byte(nil), good...), 0), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeHead(test.b); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want one with %q", err, test.want)
			}
		})
	}
	for n := range good {
		if _, err := DecodeHead(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are read", n, len(good))
		}
	}
}

func FuzzDecodeHead(f *testing.F) {
	h := full()
	f.Add(h.Encode())
	f.Add((&Head{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHead(b)
		if err != nil {
			if !reflect.DeepEqual(h, Head{}) {
				t.Errorf("with the error %v, the head is %+v", err, h)
			}
			return
		}
		again, err := DecodeHead(h.Encode())
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Errorf("%+v is written and read as %+v, %v", h, again, err)
		}
	})
}

func BenchmarkEncodeHead(b *testing.B) {
	h := full()
	b.ReportAllocs()
	for b.Loop() {
		h.Encode()
	}
}

func BenchmarkDecodeHead(b *testing.B) {
	h := full()
	form := h.Encode()
	b.ReportMetric(float64(len(form)), "bytes/head")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeHead(form); err != nil {
			b.Fatal(err)
		}
	}
}
