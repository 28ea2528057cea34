package tracker

import (
	"bytes"
	"context"
	"hash/maphash"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxProgress is the number of predictions of which it is known what they have put
// out.
const maxProgress = 4096

// progressSums are the hashes of a prediction's output and logs, 0 for none.
type progressSums [2]uint64

// progress has what an API's own webhook says of a prediction that runs sent on, if its
// client wants that. The API does not name the event: it is what has changed.
func (t *Tracker) progress(p store.Prediction, s *prediction.Snapshot) {
	if !p.Events.Has(event.Progress) || p.URL == "" || s.Status == "" || event.IsTerminal(s.Status) || p.Seen.Has(event.Terminal) {
		return
	}
	var sums progressSums
	for i, text := range [][]byte{s.Output, s.Logs} {
		if text != nil && !bytes.Equal(text, []byte(`""`)) {
			sums[i] = maphash.Bytes(t.seed, text)
		}
	}
	last, known := t.put.Get(p.Ref)
	t.put.Add(p.Ref, sums)
	if !known {
		// The first is that of the start. After one of an earlier process or of
		// another node it is not known what was sent.
		last = sums
	}
	for i, kind := range []event.Set{event.Output, event.Logs} {
		if p.Events.Has(kind) && sums[i] != 0 && sums[i] != last[i] {
			t.conf.Progress(p, kind, lifecycle.NativePayload(&p, s, t.conf.Callback))
			return
		}
	}
}

// MayProgress reports whether what p has put out may be sent now, or else whether it
// may be later: after the receipt of the start event, if its client wants that, and
// before the terminal event.
func (t *Tracker) MayProgress(ctx context.Context, p store.Prediction) (now, later bool) {
	err := t.use(func(st store.Store) error {
		is, err := st.Prediction(ctx, p.API, p.ID)
		if err != nil {
			return err
		}
		if later = !is.Seen.Has(event.Terminal) && is.URL != ""; !later || !is.Events.Has(event.Started) {
			now = later
			return nil
		}
		rows, err := st.Attempts(ctx, is.Ref, 0, maxLooked)
		for _, row := range rows {
			now = now || row.Event == event.Started && row.Error == ""
		}
		return err
	})
	return now && err == nil, later || err != nil
}

// maxLooked is how many attempts are looked at for that of the start event.
const maxLooked = 100
