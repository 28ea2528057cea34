package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	rotEntries     = 300
	rotPredictions = 40
)

func rotPayload(i int) []byte {
	return fmt.Appendf(nil, `{"event":"prediction.completed","n":%d,"output":%q}`, i, strings.Repeat("x", 200))
}

// populate commits events, and predictions whose terminal events wait for their
// delivery.
func populate(t *testing.T, s *Store) {
	t.Helper()
	commitRange(t, s, 8, 0, rotEntries)
	for i := range rotPredictions {
		p := store.Prediction{
			API: "https://api.example.com/v1", ID: fmt.Sprint("p", i), URL: fmt.Sprintf("https://receiver-%d.example.com/hook", i),
			Events: event.All, PollPath: fmt.Sprint("/predictions/p", i), CreatedAt: time.Now(),
		}
		if err := s.Track(context.Background(), &p, []store.Event{{Kind: event.Completed, Payload: rotPayload(i)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// image is a store's files by their suffix.
type image map[string][]byte

func readImage(t *testing.T, path string) image {
	t.Helper()
	im := make(image)
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		im[suffix] = data
	}
	return im
}

// open writes the files into a folder of their own and opens them, with what was
// logged.
func (im image) open(t *testing.T) (*Store, *observer.ObservedLogs, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webhook.db")
	for suffix, data := range im {
		if suffix != "" && data == nil {
			continue
		}
		if err := os.WriteFile(path+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zapcore.WarnLevel)
	s, err := Open(Options{Path: path, Logger: func() *zap.Logger { return zap.New(core) }, PurgeEvery: time.Hour})
	return s, logs, err
}

// lost counts what of populate is not there, or not as it was.
func lost(s *Store) (events, deliveries int) {
	for i := range rotEntries {
		if c, err := s.Claim(context.Background(), benchEntry(int64(i)), 0); !errors.Is(err, store.ErrDuplicate) {
			events++
			if err == nil {
				c.Release()
			}
		}
	}
	claimed, _, err := s.ClaimDeliveries(context.Background(), 2*rotPredictions, func(store.Lane) store.Slots { return store.Slots{N: rotPredictions} })
	if err != nil {
		return events, 0 // it says so
	}
	// A prediction whose id has changed may have that of another one.
	had := make(map[string]bool)
	for _, d := range claimed {
		had[d.PredictionID+string(d.Payload)] = true
	}
	for i := range rotPredictions {
		if !had[fmt.Sprint("p", i)+string(rotPayload(i))] {
			deliveries++
		}
	}
	return events, deliveries
}

// judge opens a damaged store. It must be refused, or have all events, and have
// said what else is wrong with it. SQLite has no checksums of its own: a bit that
// flips in what a row says of a prediction may change that row, and no other.
func (im image) judge(t *testing.T, what string, local int, outcomes map[string]int) {
	t.Helper()
	s, logs, err := im.open(t)
	if err != nil {
		outcomes["refused"]++
		if !strings.Contains(err.Error(), "webhook.db") || len(err.Error()) < 40 {
			t.Errorf("%s: the refusal says little: %v", what, err)
		}
		return
	}
	defer s.Close()
	events, deliveries := lost(s)
	switch {
	case events == 0 && deliveries == 0:
		outcomes["whole"]++
	case logs.Len() > 0:
		outcomes["told"]++
	case events == 0 && deliveries <= local:
		outcomes["one row changed"]++
	default:
		t.Errorf("%s: lost %d events and %d deliveries without a word", what, events, deliveries)
	}
}

// TestRot flips a byte or cuts the database off at many places.
func TestRot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	populate(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := readImage(t, path)[""]
	outcomes := make(map[string]int)
	seed := rand.New(rand.NewPCG(1, 2))
	var places []int
	for i := range 100 {
		places = append(places, i) // the header
	}
	for range 300 {
		places = append(places, seed.IntN(len(whole)))
	}
	for _, at := range places {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1 << seed.IntN(8)
		image{"": damaged}.judge(t, fmt.Sprintf("flip at %d of %d", at, len(whole)), 1, outcomes)
	}
	for at := 0; at < len(whole); at += len(whole)/40 + seed.IntN(100) {
		image{"": whole[:at:at]}.judge(t, fmt.Sprintf("cut at %d of %d", at, len(whole)), 0, outcomes)
	}
	t.Log(outcomes)
}
