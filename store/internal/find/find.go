// Package find decides what a text can name that operators look for, and what is
// asked of a store for it. What a store does for each is in its package.
package find

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// Source is what a store is asked for. All of it costs an index and as many rows as
// are returned, unless it says otherwise. Lists of rows are newest first.
type Source interface {
	// ByNumber returns the deliveries and events with a number of the range.
	ByNumber(ctx context.Context, r ledger.Numbers, limit int) ([]store.DeliveryRow, error)
	// ByPredictions returns the deliveries of predictions, by their Ref.
	ByPredictions(ctx context.Context, refs []int64, limit int) ([]store.DeliveryRow, error)
	// Clients returns the clients whose identity is not less than a text, in
	// order.
	Clients(ctx context.Context, from string, limit int) ([]string, error)
	// Origins returns the beginnings of URLs up to the path, with the slash, that
	// are not less than a text, in order.
	Origins(ctx context.Context, from string, limit int) ([]string, error)
	// OfClient returns the predictions of a client.
	OfClient(ctx context.Context, client string, limit int) ([]store.Prediction, error)
	// OfOrigin returns the predictions of an origin whose URLs contain a text in
	// lower case, among so many of the newest. It reports whether there are more.
	OfOrigin(ctx context.Context, origin, part string, among, limit int) (found []store.Prediction, more bool, err error)
	// Newest looks through the newest predictions and events, for some
	// milliseconds: for IDs of predictions that begin with a text, and URLs that
	// contain it in lower case. It reports whether there are more.
	Newest(ctx context.Context, text string, limit int) (found []store.Prediction, events []store.DeliveryRow, more bool, err error)
}

const (
	// namesAtOnce is how many clients or origins one query reads.
	namesAtOnce = 256
	// namesTime is how long all of them are looked through.
	namesTime = 12 * time.Millisecond
	// maxNames is how many clients and origins are taken, and maxKinds how many
	// kinds of clients.
	maxNames = 20
	maxKinds = 20
	// originRows is how many predictions of an origin are looked through for the
	// rest of a URL.
	originRows = 5000
)

// finding is one search.
type finding struct {
	src   Source
	lists store.Inspector
	limit int
	store.Found
}

// Find implements store.Finder for a store.
func Find(ctx context.Context, src Source, lists store.Inspector, text string, limit int) (store.Found, error) {
	f := &finding{src: src, lists: lists, limit: limit}
	text = strings.TrimSpace(text)
	if text == "" {
		return f.Found, nil
	}
	done, err := f.byID(ctx, text)
	if err == nil && !done {
		err = f.byPart(ctx, text)
	}
	return f.Found, err
}

// byID finds what has the ID, or what deliveries and events have IDs that begin with
// the text. It reports whether the text is an ID.
func (f *finding) byID(ctx context.Context, text string) (bool, error) {
	if ranges, ok := ledger.IDsBeginning(text); ok {
		for _, r := range ranges {
			rows, err := f.src.ByNumber(ctx, r, f.limit+1)
			if err != nil {
				return false, err
			}
			for i := range rows {
				switch {
				case !strings.HasPrefix(rows[i].ID, text):
				case rows[i].Inbound != nil:
					f.Events = append(f.Events, rows[i])
				default:
					f.Deliveries = append(f.Deliveries, rows[i])
				}
			}
		}
		f.sort()
		return true, f.predictionsOf(ctx)
	}
	var next [3]int64
	var err error
	if f.Predictions, next[0], err = f.lists.ListPredictions(ctx, store.PredictionFilter{ID: text, Limit: f.limit}); err != nil {
		return false, err
	}
	if f.Deliveries, next[1], err = f.lists.ListDeliveries(ctx, store.DeliveryFilter{Prediction: text, Limit: f.limit}); err != nil {
		return false, err
	}
	if f.Events, next[2], err = f.lists.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, Prediction: text, Limit: f.limit}); err != nil {
		return false, err
	}
	f.More = next != [3]int64{}
	return len(f.Predictions)+len(f.Events) > 0, nil
}

// predictionsOf adds the prediction of the delivery or event that was found, if it is
// one.
func (f *finding) predictionsOf(ctx context.Context) error {
	rows := slices.Concat(f.Deliveries, f.Events)
	if len(rows) != 1 || rows[0].PredictionID == "" {
		return nil
	}
	found, _, err := f.lists.ListPredictions(ctx, store.PredictionFilter{ID: rows[0].PredictionID, Limit: f.limit})
	if rows[0].Inbound == nil {
		// Another API may have one of the same ID.
		found = slices.DeleteFunc(found, func(p store.Prediction) bool { return p.Ref != rows[0].Prediction })
	}
	f.Predictions = found
	return err
}

// byPart finds what the text is a part of.
func (f *finding) byPart(ctx context.Context, text string) error {
	if err := f.byClient(ctx, text); err != nil {
		return err
	}
	if err := f.byOrigin(ctx, withoutPort(strings.ToLower(text))); err != nil {
		return err
	}
	found, events, more, err := f.src.Newest(ctx, text, f.limit+1)
	if err != nil {
		return err
	}
	f.Predictions, f.Events, f.More = append(f.Predictions, found...), events, f.More || more
	f.sort()
	refs := make([]int64, len(f.Predictions))
	for i := range f.Predictions {
		refs[i] = f.Predictions[i].Ref
	}
	if len(refs) > 0 {
		f.Deliveries, err = f.src.ByPredictions(ctx, refs, f.limit+1)
		f.sort()
	}
	return err
}

// byClient finds clients whose identity begins with the text, or whose name contains
// it.
func (f *finding) byClient(ctx context.Context, text string) error {
	// Those that begin with it are found however many others there are.
	starts, err := f.clientStarts(ctx, text)
	if err != nil {
		return err
	}
	taken := make(map[string]bool)
	for _, start := range starts {
		clients, err := f.src.Clients(ctx, start, maxNames+1)
		if err != nil {
			return err
		}
		for _, c := range clients {
			taken[c] = taken[c] || strings.HasPrefix(c, start)
		}
	}
	part := strings.ToLower(text)
	err = f.walk(ctx, f.src.Clients, func(client string) (full bool, err error) {
		_, name, _ := strings.Cut(client, " ")
		taken[client] = taken[client] || strings.Contains(strings.ToLower(name), part)
		return len(taken) > maxNames, nil
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(taken, func(_ string, is bool) bool { return !is })
	f.Clients = cut(slices.Sorted(maps.Keys(taken)), maxNames, &f.More)
	for _, client := range f.Clients {
		found, err := f.src.OfClient(ctx, client, f.limit+1)
		if err != nil {
			return err
		}
		f.Predictions = append(f.Predictions, found...)
	}
	return nil
}

// clientStarts returns what identities begin with whose name begins with the text.
// An identity is an API, a space, and a name whose kind ends in a slash or a colon,
// such as "https://api.replicate.com/v1 user/alice".
func (f *finding) clientStarts(ctx context.Context, text string) ([]string, error) {
	starts := []string{text}
	for from := ""; len(starts) < maxKinds; {
		first, err := f.src.Clients(ctx, from, 1)
		if err != nil || len(first) == 0 {
			return starts, err
		}
		api, name, _ := strings.Cut(first[0], " ")
		kind := name[:strings.IndexAny(name, "/:")+1]
		starts = append(starts, api+" "+kind+text)
		if own := api + " " + text; !slices.Contains(starts, own) {
			starts = append(starts, own)
		}
		from = first[0] + "\x00"
		if kind != "" {
			from = api + " " + kind + "\xff" // no text has this byte
		}
	}
	f.More = true
	return starts, nil
}

// byOrigin finds URLs whose scheme, host and port contain the text, or the end of
// which it begins with.
func (f *finding) byOrigin(ctx context.Context, text string) error {
	seen := make(map[string]bool)
	take := func(origin string) (full bool, err error) {
		part, ok := match(strings.ToLower(origin), text)
		if !ok || seen[origin] {
			return false, nil
		}
		if len(seen) == maxNames {
			f.More = true
			return true, nil
		}
		seen[origin] = true
		return false, f.origin(ctx, origin, part)
	}
	// Those that begin with it come first: they are found however many others
	// there are.
	host := strings.TrimPrefix(strings.TrimPrefix(text, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	for _, scheme := range []string{"https://", "http://"} {
		origins, err := f.origins(ctx, scheme+host, maxNames+1)
		if err != nil {
			return err
		}
		for _, o := range origins {
			if full, err := take(o); full || err != nil {
				return err
			}
		}
	}
	return f.walk(ctx, f.origins, take)
}

// origins returns the origins without that of disabled predictions, which have no URL.
func (f *finding) origins(ctx context.Context, from string, limit int) ([]string, error) {
	return f.src.Origins(ctx, max(from, "\x01"), limit)
}

// walk looks through all names, for some milliseconds or until full.
func (f *finding) walk(ctx context.Context, names func(ctx context.Context, from string, limit int) ([]string, error), take func(name string) (full bool, err error)) error {
	began := time.Now()
	for from := ""; ; {
		list, err := names(ctx, from, namesAtOnce)
		if err != nil {
			return err
		}
		for _, name := range list {
			if full, err := take(name); full || err != nil {
				return err
			}
		}
		if len(list) < namesAtOnce {
			return nil
		}
		if time.Since(began) > namesTime {
			f.More = true
			return nil
		}
		from = list[len(list)-1] + "\x00"
	}
}

// origin adds the predictions of an origin whose URLs contain a part.
func (f *finding) origin(ctx context.Context, origin, part string) error {
	if name := store.EndpointOf(origin); part == "" && !slices.Contains(f.Endpoints, name) {
		f.Endpoints = append(f.Endpoints, name)
	}
	among := f.limit + 1
	if part != "" {
		among = originRows
	}
	found, more, err := f.src.OfOrigin(ctx, origin, part, among, f.limit+1)
	f.Predictions, f.More = append(f.Predictions, found...), f.More || more
	return err
}

// withoutPort returns a text without the port of HTTPS or HTTP, which endpoints name
// and most URLs do not.
func withoutPort(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	} else {
		scheme += "://"
	}
	host, path, more := strings.Cut(rest, "/")
	if scheme != "http://" {
		host = strings.TrimSuffix(host, ":443")
	}
	if scheme != "https://" {
		host = strings.TrimSuffix(host, ":80")
	}
	if more {
		path = "/" + path
	}
	return scheme + host + path
}

// match reports whether URLs of an origin may contain a text. part is what they have
// to contain for that, empty where all do.
func match(origin, text string) (part string, ok bool) {
	if strings.Contains(origin, text) {
		return "", true
	}
	// The text goes on behind the origin.
	start := 0
	if _, rest, found := strings.Cut(text, "://"); found {
		start = len(text) - len(rest)
	}
	slash := strings.IndexByte(text[start:], '/')
	if slash < 0 || start+slash == 0 || !strings.HasSuffix(origin, text[:start+slash+1]) {
		return "", false
	}
	return text, true
}

// sort brings the rows in order, newest first and each once, and cuts the lists at
// the limit.
func (f *finding) sort() {
	slices.SortFunc(f.Predictions, func(a, b store.Prediction) int { return cmp.Compare(b.Ref, a.Ref) })
	f.Predictions = slices.CompactFunc(f.Predictions, func(a, b store.Prediction) bool { return a.Ref == b.Ref })
	f.Predictions = cut(f.Predictions, f.limit, &f.More)
	for _, rows := range []*[]store.DeliveryRow{&f.Deliveries, &f.Events} {
		slices.SortFunc(*rows, func(a, b store.DeliveryRow) int { return cmp.Compare(b.N, a.N) })
		*rows = cut(*rows, f.limit, &f.More)
	}
}

// cut returns up to n, and sets more where there are more.
func cut[T any](list []T, n int, more *bool) []T {
	if len(list) <= n {
		return list
	}
	*more = true
	return list[:n]
}
