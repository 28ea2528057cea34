package signature_test

import (
	"net/http"
	"reflect"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestAdoptSvix: an app reads the values that are verified, by whatever name it
// looks for them.
func TestAdoptSvix(t *testing.T) {
	type h = http.Header
	for name, test := range map[string]struct{ in, want h }{
		"Svix's alone": {
			h{"Svix-Id": {"a"}, "Svix-Timestamp": {"1"}, "Svix-Signature": {"v1,x"}},
			h{"Svix-Id": {"a"}, "Svix-Timestamp": {"1"}, "Svix-Signature": {"v1,x"}, "Webhook-Id": {"a"}, "Webhook-Timestamp": {"1"}, "Webhook-Signature": {"v1,x"}},
		},
		"part of Svix's": {h{"Svix-Id": {"a"}}, h{"Svix-Id": {"a"}, "Webhook-Id": {"a"}}},
		"repeated":       {h{"Svix-Id": {"a", "b"}}, h{"Svix-Id": {"a", "b"}, "Webhook-Id": {"a", "b"}}},
		"both":           {h{"Svix-Id": {"a"}, "Webhook-Id": {"a"}}, h{"Svix-Id": {"a"}, "Webhook-Id": {"a"}}},
		"differing":      {h{"Svix-Id": {"b"}, "Svix-Signature": {"v1,y"}, "Webhook-Id": {"a"}}, h{"Webhook-Id": {"a"}}},
		"spellings":      {h{"Svix_id": {"b"}, "SVIX.SIGNATURE": {"c"}, "Webhook-Id": {"a"}}, h{"Webhook-Id": {"a"}}},
		"none":           {h{"X": {"b"}}, h{"X": {"b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if signature.AdoptSvix(test.in); !reflect.DeepEqual(test.in, test.want) {
				t.Errorf("got %v, want %v", test.in, test.want)
			}
		})
	}
}
