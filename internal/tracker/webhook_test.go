package tracker

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
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
		p, err := w.Test(t.Context(), &Capture{API: up, Caller: client, URL: hook}, c.fail, []byte(c.input), c.version)
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
		if _, err := w.TestPrediction(t.Context(), up, upstream.Caller{Identity: "another"}, p.ID); !errors.Is(err, store.ErrNotFound) {
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
	if _, err := w.Test(t.Context(), &Capture{API: up, Caller: client, URL: hook}, false, []byte("{"), ""); err == nil {
		t.Error("an input that is not JSON")
	}
}

func TestSetWebhook(t *testing.T) {
	w := newWorld(t, func(c *options) {
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
