package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// previewTime bounds the preview of an action on many rows.
const previewTime = time.Second

// bulk is an action on all deliveries or events that a query selects.
type bulk struct {
	Heading string
	// Verb names the action on the button.
	Verb string
	// Action is the last segment of its path.
	Action string
	// List is the section whose query it takes.
	List string
	// run does the action, or previews it, for one page of rows. query has no
	// limit.
	run func(ctx context.Context, query url.Values, dry bool) (bulkCounts, error)
}

// bulkCounts is what an action did, or would do.
type bulkCounts struct {
	Changed int
	// Others are rows that it leaves as they are.
	Others []bulkOther
	Next   string
}

type bulkOther struct {
	N   int
	Why string
}

func (c *bulkCounts) add(o bulkCounts) {
	c.Changed += o.Changed
	for i := range o.Others {
		if i == len(c.Others) {
			c.Others = append(c.Others, bulkOther{Why: o.Others[i].Why})
		}
		c.Others[i].N += o.Others[i].N
	}
	c.Next = o.Next
}

// bulkOf returns the action of a route.
func (v *visit) bulkOf() bulk {
	s := v.app.Operator()
	if v.rt.name == doRedeliver {
		return bulk{"Redeliver", "Redeliver", doRedeliver, pageDeliveries, func(ctx context.Context, query url.Values, dry bool) (bulkCounts, error) {
			q, err := operator.ParseDeliveryQuery(query)
			if err != nil {
				return bulkCounts{}, err
			}
			q.Limit = operator.MaxLimit
			b, err := s.RedeliverAll(ctx, q, dry)
			return bulkCounts{b.Redelivered, []bulkOther{
				{b.Overtaken, "pending again, or delivered by a later delivery"}, {b.Disabled, "of predictions whose webhook is disabled"},
			}, b.Next}, err
		}}
	}
	action := operator.EventAction(v.rt.name)
	b := bulk{Action: v.rt.name, List: pageEvents, run: func(ctx context.Context, query url.Values, dry bool) (bulkCounts, error) {
		q, err := operator.ParseEventQuery(query)
		if err != nil {
			return bulkCounts{}, err
		}
		q.Limit = operator.MaxLimit
		b, err := s.ChangeEvents(ctx, action, q, dry)
		return bulkCounts{b.Changed, []bulkOther{{b.Unchanged, "in another state by now"}, {b.NoBody, "whose body was deleted, or that were only recorded"}}, b.Next}, err
	}}
	switch action {
	case operator.ActionRetry:
		b.Heading, b.Verb = "Try events now", "Try now"
	case operator.ActionDiscard:
		b.Heading, b.Verb = "Discard events", "Discard"
	default:
		b.Heading, b.Verb = "Replay events", "Replay"
	}
	return b
}

// all previews an action on many rows, or does it for the first ones.
func (v *visit) all() error {
	b := v.bulkOf()
	if v.r.Method == http.MethodPost {
		return v.change(func(ctx context.Context) (string, error) {
			query := v.r.PostForm
			query.Del(tokenField)
			counts, err := b.run(ctx, query, false)
			if err != nil && !(errors.Is(err, operator.ErrUnavailable) && counts.Changed > 0) {
				return "", err
			}
			query.Set("done", strconv.Itoa(counts.Changed))
			if query.Set("cursor", counts.Next); counts.Next == "" {
				query.Set("finished", "true")
			}
			return v.rt.name + "?" + query.Encode(), nil
		})
	}
	query := v.r.URL.Query()
	done, finished := query.Get("done"), query.Has("finished")
	query.Del("done")
	query.Del("finished")
	page := struct {
		frame
		bulk
		bulkCounts
		Selected [][2]string // the query, as it is shown and sent
		ListURL  string
		Done     string
		Finished bool
		More     bool // the preview ended before the list
	}{frame: v.withToken(b.Heading, b.List), bulk: b, Finished: finished}
	if n, err := strconv.Atoi(done); err == nil && n >= 0 {
		page.Done = fmt.Sprint(n)
	}
	for name := range query {
		if value := query.Get(name); value != "" && name != "limit" {
			page.Selected = append(page.Selected, [2]string{name, value})
		}
	}
	slices.SortFunc(page.Selected, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	list := url.Values{}
	for _, s := range page.Selected {
		if s[0] != "cursor" {
			list.Set(s[0], s[1])
		}
	}
	page.ListURL = b.List + "?" + list.Encode()
	query.Del("limit")
	for began := time.Now(); !finished; {
		counts, err := b.run(v.r.Context(), query, true)
		if err != nil {
			return err
		}
		page.add(counts)
		if page.Next == "" || time.Since(began) > previewTime {
			break
		}
		query.Set("cursor", page.Next)
	}
	page.More = page.Next != ""
	return render(v.w, v.r, http.StatusOK, pageAll, &page)
}
