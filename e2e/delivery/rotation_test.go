package delivery_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestRotatedKeySignsBesideTheOldOne until the overlap has ended by the store's clock.
// An attempt is signed by what is valid when it is made: a retry by the new key, too,
// whenever its delivery was created.
func TestRotatedKeySignsBesideTheOldOne(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	clock := caddyrun.NewClock(t, s.Path("clocked.db"))
	text := strings.NewReplacer("store sqlite "+s.Path("webhook.db"), "store clocked "+s.Path("clocked.db"),
		"/v1/* {\n", "/v1/* {\nserve_signing_secret\n").Replace(s.Config(siterun.Options{}))
	s.Reload(text)

	// served is the secret that the API gives to the client.
	served := func() string {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, s.URL("PORT1", "/v1/webhooks/default/secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+siterun.Token)
		resp, err := s.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var doc struct{ Key string }
		body, err := io.ReadAll(resp.Body)
		if err != nil || json.Unmarshal(body, &doc) != nil || doc.Key == "" {
			t.Fatalf("the secret is %d %s, %v", resp.StatusCode, body, err)
		}
		return doc.Key
	}
	// verifiers returns which of the secrets verify a request in each of the headers.
	verifiers := func(r *caddyrun.Request, secrets ...string) (standard, replicate []int) {
		t.Helper()
		for i, text := range secrets {
			key, err := signature.ParseSecret(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, scheme := range []struct {
				is    signature.Scheme
				which *[]int
			}{{signature.Standard, &standard}, {signature.Replicate, &replicate}} {
				claim, err := signature.ParseHeaders(r.Header, scheme.is)
				if err != nil {
					t.Fatal(err)
				}
				got, err := claim.Verify([]signature.Secret{key}, r.Got, func() []byte { return r.Got })
				if err == nil && got.Schemes.Has(scheme.is) {
					*scheme.which = append(*scheme.which, i)
				}
			}
		}
		return standard, replicate
	}
	entries := func(r *caddyrun.Request) []string { return strings.Fields(r.Header.Get("webhook-signature")) }

	first := served()
	// An attempt is refused, and the key rotated before the retry.
	var once sync.Once
	s.Hook.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.Header.Get("X-Replicate-Event") != "prediction.completed" {
			return
		}
		once.Do(func() {
			got, err := s.Admin.Rotate(t.Context(), s.APIURL()+siterun.Client, "24h")
			if err != nil || got.Generation != 1 {
				t.Errorf("rotated %+v, %v", got, err)
			}
			w.WriteHeader(http.StatusInternalServerError)
		})
	})
	s.Create("/hook")
	s.Settled(2)
	second := served()
	if second == first {
		t.Fatal("the client is still given the old secret")
	}
	seen := s.Hook.Seen()
	if len(seen) != 3 || seen[1].Header.Get("X-Replicate-Delivery") != seen[2].Header.Get("X-Replicate-Delivery") {
		t.Fatalf("the receiver got %d requests", len(seen))
	}
	for i, r := range seen[:2] {
		if standard, replicate := verifiers(r, first, second); !slices.Equal(standard, []int{0}) || !slices.Equal(replicate, []int{0}) || len(entries(r)) != 1 {
			t.Errorf("request %d before the rotation: %v %v verify %v", i, standard, replicate, r.Header)
		}
	}
	retry := seen[2]
	if standard, replicate := verifiers(retry, first, second); !slices.Equal(standard, []int{0, 1}) || !slices.Equal(replicate, []int{1}) || len(entries(retry)) != 2 {
		t.Fatalf("the retry: %v %v verify %v", standard, replicate, retry.Header)
	}
	// The newest comes first.
	newest := retry.Clone(t.Context())
	newest.Header.Set("webhook-signature", entries(retry)[0])
	if standard, _ := verifiers(&caddyrun.Request{Request: newest, Got: retry.Got}, first, second); !slices.Equal(standard, []int{1}) {
		t.Errorf("the first entry is verified by %v", standard)
	}

	clock.Ahead(24 * time.Hour)
	s.Create("/hook")
	s.Settled(4)
	for i, r := range s.Hook.Seen()[3:] {
		if standard, replicate := verifiers(r, first, second); !slices.Equal(standard, []int{1}) || !slices.Equal(replicate, []int{1}) || len(entries(r)) != 1 {
			t.Errorf("request %d after the overlap: %v %v verify %v", i, standard, replicate, r.Header)
		}
	}
	// And with the next configuration.
	s.Reload(strings.Replace(text, "poll 10ms 50ms", "poll 20ms 50ms", 1))
	if served() != second {
		t.Error("after a reload the secret is another one")
	}
}
