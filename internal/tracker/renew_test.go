package tracker

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRenewedTokenIsPolledWith from the next poll on.
func TestRenewedTokenIsPolledWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		own := Upstream{API: apiURL, Token: "r8_before"}
		if err := w.Join(own); err != nil {
			t.Fatal(err)
		}
		w.api.set("/v1/predictions/a", body("a", "processing"))
		w.start()
		defer w.end()
		w.trackAt(own, "a", "starting")
		time.Sleep(time.Minute)
		w.Renew(Upstream{API: apiURL, Token: "r8_after"})
		w.Renew(Upstream{API: "https://another.test", Token: "r8_nobodys"})
		before := len(w.api.requests())
		time.Sleep(time.Minute)
		for i, r := range w.api.requests() {
			want := "Bearer r8_before"
			if i >= before {
				want = "Bearer r8_after"
			}
			if r.authorization != want {
				t.Fatalf("poll %d was made with %q", i, r.authorization)
			}
		}
		if len(w.api.requests()) == before {
			t.Fatal("there was no poll afterwards")
		}
	})
}

// TestReplacedSigningSecretsSignFromThenOn, and what can't sign replaces nothing.
func TestReplacedSigningSecretsSignFromThenOn(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.SigningSecrets = []string{"the first secret"} })
	if err := w.SetSigningSecrets([]string{"the newer secret", "the first secret"}); err != nil {
		t.Fatal(err)
	}
	if err := w.SetSigningSecrets([]string{"the newest secret", "short"}); err == nil {
		t.Fatal("a short secret was taken")
	}
	got, err := w.Secrets(t.Context(), "anyone")
	if err != nil || len(got) != 2 || !got[0].Equal(parse(t, "the newer secret")) || !got[1].Equal(parse(t, "the first secret")) {
		t.Errorf("secrets are %v, %v", got, err)
	}
	if text, err := w.SigningSecret(t.Context(), "anyone"); text != "the newer secret" || err != nil {
		t.Errorf("the newest is not the newer one: %v", err)
	}
}
