package copy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/postgres"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

var (
	ctx   = context.Background()
	begun = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
)

const api = "https://api.example.com/v1"

func entry(name string, signed time.Time) store.Entry {
	return store.Entry{Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", name)}, SignedAt: signed, Expires: signed.Add(time.Hour)}
}

func track(t *testing.T, s store.Store, id string, events ...event.Set) store.Prediction {
	t.Helper()
	p := store.Prediction{
		API: api, ID: id, Client: "client of " + id, URL: "https://a.example.com/hook", Events: event.All, PollPath: "/predictions/" + id,
		Credential: []byte("sealed " + id), Token: []byte("token of " + id), Traceparent: "trace", CreatedAt: begun, PollAt: begun.Add(time.Hour),
	}
	var happened []store.Event
	for _, e := range events {
		happened = append(happened, store.Event{Kind: e, Payload: []byte(id + " " + e.Name())})
	}
	if err := s.Track(ctx, &p, happened); err != nil {
		t.Fatal(err)
	}
	return p
}

func claim(t *testing.T, s store.Store) map[string]store.Delivery {
	t.Helper()
	claimed, _, err := s.ClaimDeliveries(ctx, 1000, func(store.Lane) store.Slots { return store.Slots{N: 1000} })
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]store.Delivery)
	for _, d := range claimed {
		byName[d.PredictionID+" "+strings.TrimPrefix(d.Event.Name(), "prediction.")] = d
	}
	return byName
}

func complete(t *testing.T, s store.Store, d store.Delivery, v store.Disposition, due time.Time) {
	t.Helper()
	if err := s.Complete(ctx, store.Outcome{Delivery: d, Disposition: v, Due: due, Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Status: 200, Number: d.Attempts + 1, At: begun, Took: time.Millisecond, Response: "ok \x00",
	}}); err != nil {
		t.Fatal(err)
	}
}

// TestCopy: what an SQLite store holds is what the PostgreSQL store holds.
func TestCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := begun
	clock := clocktest.At(now)
	from, err := sqlite.Open(sqlite.Options{Path: path, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	commit := func(e store.Entry) {
		t.Helper()
		c, err := from.Claim(ctx, e, 0)
		if err == nil {
			err = c.Commit(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// One that is purged, one that is accepted again after it expired, many.
	old, again := entry("old", begun), entry("again", begun)
	commit(old)
	commit(again)
	now = clock.Add(2 * time.Hour)
	if err := from.Purge(); err != nil {
		t.Fatal(err)
	}
	commit(entry("again", now))
	for i := range 300 {
		commit(entry(fmt.Sprint(i), now))
	}
	done := track(t, from, "done", event.Started, event.Completed)
	complete(t, from, claim(t, from)["done started"], store.Delivered, now)
	complete(t, from, claim(t, from)["done completed"], store.Exhausted, now)
	log, err := from.Attempts(ctx, done.Ref, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Redeliver(ctx, done.Ref, log[0].ID); err != nil {
		t.Fatal(err)
	}
	complete(t, from, claim(t, from)["done completed"], store.Delivered, now)
	track(t, from, "retrying", event.Started)
	due := now.Add(time.Minute)
	complete(t, from, claim(t, from)["retrying started"], store.Retry, due)
	track(t, from, "waiting", event.Started, event.Failed)
	running := track(t, from, "running")
	if _, err := from.Reserve(ctx, store.Prediction{API: api, Token: []byte("reserved"), URL: "https://a.example.com/", Events: event.All, CreatedAt: begun}); err != nil {
		t.Fatal(err)
	}
	secret := func() ([]byte, error) { return []byte("sealed secret"), nil }
	if _, err := from.Secret(ctx, "signing", secret); err != nil {
		t.Fatal(err)
	}
	answered := store.Create{Key: store.KeyOf("x", "create", "answered"), Caller: store.KeyOf("x", "caller"), Digest: [32]byte{1}, Expires: now.Add(time.Hour)}
	unknown := answered
	unknown.Key = store.KeyOf("x", "create", "unknown")
	for _, c := range []*store.Create{&answered, &unknown} {
		if err := from.BeginCreate(ctx, c, nil); err != nil {
			t.Fatal(err)
		}
	}
	answered.CreateAnswer = store.CreateAnswer{Status: 201, ID: "done", Sealed: []byte("sealed response")}
	if err := from.AnswerCreate(ctx, &answered, answered.CreateAnswer); err != nil {
		t.Fatal(err)
	}
	var predictions []store.Prediction
	for _, id := range []string{"done", "retrying", "waiting", "running"} {
		p, err := from.Prediction(ctx, api, id)
		if err != nil {
			t.Fatal(err)
		}
		predictions = append(predictions, p)
	}
	attempts, err := from.Attempts(ctx, done.Ref, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := from.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := claim(t, from)
	dsn := pgtest.Start(t).Fresh(t)
	if _, err := SQLiteToPostgres(ctx, path, dsn); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("copying what is in use: %v", err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}

	r, err := SQLiteToPostgres(ctx, path, dsn)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Report{Entries: 301, Predictions: 5, Deliveries: 6, Attempts: 4, Secrets: 1, Creates: 2}); r != want {
		t.Errorf("copied %+v, want %+v", r, want)
	}
	if _, err := SQLiteToPostgres(ctx, path, dsn); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("copying twice: %v", err)
	}

	to, err := postgres.Open(postgres.Options{DSN: dsn, Now: clock.Now, DatabaseNow: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for name, c := range map[string]struct {
		entry store.Entry
		want  error
	}{
		"remembered":        {entry("7", now), store.ErrDuplicate},
		"accepted again":    {entry("again", now), store.ErrDuplicate},
		"purged":            {old, store.ErrReplayed},
		"as old as purged":  {entry("unknown", begun), store.ErrReplayed},
		"that has not come": {entry("new", now), nil},
	} {
		if c2, err := to.Claim(ctx, c.entry, 0); !errors.Is(err, c.want) {
			t.Errorf("event %s: %v, %v; want %v", name, c2, err, c.want)
		}
	}
	for _, want := range predictions {
		got, err := to.Prediction(ctx, api, want.ID)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	if p, err := to.ByToken(ctx, []byte("reserved")); err != nil || p.ID != "" {
		t.Errorf("reserved is %+v, %v", p, err)
	}
	if got, err := to.Attempts(ctx, done.Ref, 0, 10); err != nil || !reflect.DeepEqual(got, attempts) {
		t.Errorf("log is %+v, %v\nwant %+v", got, err, attempts)
	}
	if got, err := to.Secret(ctx, "signing", func() ([]byte, error) { return nil, errors.New("made anew") }); err != nil || string(got) != "sealed secret" {
		t.Errorf("secret is %q, %v", got, err)
	}
	for _, want := range []store.Create{answered, unknown} {
		if got, err := to.Create(ctx, want.Key); err != nil || !got.Expires.Equal(want.Expires) {
			t.Errorf("create is %+v, %v", got, err)
		} else if got.Expires = want.Expires; !reflect.DeepEqual(got, want) {
			t.Errorf("create is %+v, want %+v", got, want)
		}
	}
	if got, err := to.Counts(ctx); err != nil || got != counts {
		t.Errorf("counts are %+v, %v; want %+v", got, err, counts)
	}
	polls, _, err := to.ClaimPolls(ctx, 10)
	if err != nil || len(polls) != 2 || polls[0].Ref != running.Ref && polls[1].Ref != running.Ref {
		t.Errorf("polls are %+v, %v", polls, err)
	}
	got := claim(t, to)
	if len(got) != 1 || !reflect.DeepEqual(got["waiting started"], before["waiting started"]) {
		t.Fatalf("due are %+v, want %+v", got, before)
	}
	complete(t, to, got["waiting started"], store.Delivered, now)
	complete(t, to, claim(t, to)["waiting failed"], store.Delivered, now)
	clock.Set(due)
	if d := claim(t, to)["retrying started"]; d.Attempts != 1 {
		t.Errorf("the retry is %+v", d)
	}
	// New rows come after the copied ones.
	if p := track(t, to, "new", event.Started); p.Ref <= running.Ref {
		t.Errorf("the new prediction has ref %d", p.Ref)
	}
	if id, err := to.Redeliver(ctx, done.Ref, attempts[0].ID); err != nil || id == "" {
		t.Errorf("redelivering: %q, %v", id, err)
	}
	// It shares what a redelivery shared before the copy.
	if d := claim(t, to)["done completed"]; string(d.Payload) != "done prediction.completed" {
		t.Errorf("the redelivery is %+v", d)
	}
}

func TestCopyNothingThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	_, err := SQLiteToPostgres(ctx, path, "postgres://nobody@127.0.0.1:1/x")
	if err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
