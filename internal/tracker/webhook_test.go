package tracker

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

func TestTestMode(t *testing.T) {
	w := newWorld(t, withCallback)
	for _, c := range []struct {
		name, input, version, want string
		fail                       bool
		events                     []string
	}{
		{"success", ` {"b":1, "1":2}`, "o/n:v", `"version":"o/n:v","input":{"1":2,"b":1},"logs":"","output":"`, false, both},
		{"failure", "", "", `"version":"","input":{},"logs":"","output":null,"error":"`, true, failed},
	} {
		p, err := w.Test(t.Context(), &Capture{Upstream: up, Caller: client, URL: hook}, c.fail, []byte(c.input), c.version)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ID, TestPrefix) || len(p.ID) < 24 || !prediction.ValidID(p.ID) || !p.Test || p.PollPath != "" || p.Token != nil || p.Credential != nil {
			t.Errorf("%s: %+v", c.name, p)
		}
		w.wantEvents(p.ID, c.events)
		if d, err := ecmajson.Parse(p.Body, ecmajson.Limits{}, nil); err != nil || !d.Canonical() || !strings.Contains(string(p.Body), c.want) {
			t.Errorf("%s: body %s", c.name, p.Body)
		}
		got, err := w.TestPrediction(t.Context(), up, client, p.ID)
		if err != nil || !bytes.Equal(got.Body, p.Body) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := w.TestPrediction(t.Context(), up, Caller{Identity: "another"}, p.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("another client sees it: %v", err)
		}
	}
	if len(w.api.requests()) != 0 {
		t.Error("the API was asked")
	}
	w.track("test_real", "starting")
	if _, err := w.TestPrediction(t.Context(), up, client, "test_real"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an API's own prediction: %v", err)
	}
	if _, err := w.Test(t.Context(), &Capture{Upstream: up, Caller: client, URL: hook}, false, []byte("{"), ""); err == nil {
		t.Error("an input that is not JSON")
	}
}

func TestSetWebhook(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.CheckURL = func(u string) error {
			if strings.Contains(u, "10.0.0.1") {
				return errors.New("bad url")
			}
			return nil
		}
	})
	p := w.track("p", "starting")
	p, err := w.SetWebhook(t.Context(), p, "https://new.test/", event.Completed)
	if err != nil || p.URL != "https://new.test/" || p.Events != event.Completed {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = w.SetWebhook(t.Context(), p, "", 0); err != nil || p.URL != "" || p.Events != event.Completed {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err = w.SetWebhook(t.Context(), p, "https://10.0.0.1/", 0); err == nil || w.st.row(t, "p").URL != "" {
		t.Errorf("got %v", err)
	}
}

func TestLogIsForClients(t *testing.T) {
	w := newWorld(t, nil)
	w.st.log = []store.Attempt{{ID: 2, Response: "internal page", Exception: true, Error: "e"}, {ID: 1, Response: "ok"}}
	rows, err := w.Log(t.Context(), store.Prediction{}, 0, 10)
	if err != nil || len(rows) != 2 || rows[0].Response != "" || rows[0].Error != "e" || rows[1].Response != "ok" {
		t.Errorf("%+v, %v", rows, err)
	}
}

func TestRedeliverySharesThePayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.track("p", "succeeded")
		before := w.st.payload("p")
		time.Sleep(time.Hour)
		id, err := w.Redeliver(t.Context(), p, 1)
		if after := w.st.payload("p"); err != nil || id != "dlv" || after != before {
			t.Errorf("%q, %v: %s", id, err, after)
		}
	})
}

func sign(t *testing.T, s signature.Secret) string {
	t.Helper()
	return s.SignReplicate([]byte("x"))
}

func parse(t *testing.T, s string) signature.Secret {
	t.Helper()
	p, err := signature.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfiguredSecretsAreShared(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.SigningSecrets = []string{"the newest secret", "an older secret!"} })
	got, err := w.Secrets(t.Context(), "anyone")
	if err != nil || len(got) != 2 || !got[0].Equal(parse(t, "the newest secret")) || !got[1].Equal(parse(t, "an older secret!")) {
		t.Errorf("%v, %v", got, err)
	}
	if text, err := w.SigningSecret(t.Context(), "anyone"); text != "the newest secret" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if w.st.writeCount() != 0 {
		t.Error("a secret was generated")
	}
}

func TestGeneratedSecrets(t *testing.T) {
	for _, perClient := range []bool{false, true} {
		w := newWorld(t, func(c *Config) { c.PerClient = perClient })
		a, err := w.SigningSecret(t.Context(), "a")
		if err != nil || !strings.HasPrefix(a, "whsec_") || !parse(t, a).Standard() {
			t.Fatalf("%q, %v", a, err)
		}
		b, _ := w.SigningSecret(t.Context(), "b")
		if (a == b) == perClient {
			t.Errorf("per client %v: equal is %v", perClient, a == b)
		}
		got, err := w.Secrets(t.Context(), "a")
		if err != nil || len(got) != 1 || sign(t, got[0]) != sign(t, parse(t, a)) {
			t.Errorf("%v, %v", got, err)
		}
		for name, s := range w.st.secrets {
			if bytes.Contains(s, []byte(a)) || len(w.st.secrets) != 1 {
				t.Errorf("%s is stored as %q", name, s)
			}
		}
		// The same after a restart.
		w.renew(func(c *Config) { c.PerClient = perClient })
		if again, err := w.SigningSecret(t.Context(), "a"); again != a || err != nil {
			t.Errorf("another secret after a restart: %v", err)
		}
		if w.st.writeCount() != 1 {
			t.Errorf("%d writes", w.st.writeCount())
		}
		// And not without the key.
		w.renew(func(c *Config) { c.PerClient, c.Seal = perClient, ring(t, 2) })
		if s, err := w.Secrets(t.Context(), "a"); !errors.Is(err, seal.ErrUnreadable) || s != nil {
			t.Errorf("%v, %v", s, err)
		}
		if w.Stats().Unreadable != 1 || w.logs.Len() != 1 {
			t.Errorf("%+v, %v", w.Stats(), w.logs.All())
		}
	}
}

func TestSecretsWithoutTheStore(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PerClient = true })
	w.st.fail(store.ErrUnavailable)
	if _, err := w.Secrets(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	w.st.fail(nil)
	if _, err := w.Secrets(t.Context(), "a"); err != nil {
		t.Errorf("the error is remembered: %v", err)
	}
	w.Tracker.acquire = func() (*shared.Ref, error) { return nil, store.ErrUnavailable }
	if _, err := w.Secrets(t.Context(), "b"); err != nil {
		t.Errorf("the master secret is not at hand: %v", err)
	}
}

func TestSecretsAreBoundedAndConcurrent(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PerClient = true })
	want, err := w.SigningSecret(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if _, err := w.Secrets(t.Context(), string(rune('a'+g))+strings.Repeat("i", i)); err != nil {
					t.Error(err)
					return
				}
				if got, _ := w.SigningSecret(t.Context(), "x"); got != want {
					t.Error("two secrets")
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(w.keys.clients); n > maxClientKeys {
		t.Errorf("%d secrets are at hand", n)
	}
}
