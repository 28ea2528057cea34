package dashboard

import (
	"net/http"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// newest is the number of deliveries on the overview.
const newest = 8

// tile is a number with a name, which leads to what it counts.
type tile struct {
	ID, Name, Class, Path string
	Value                 string
	Note                  string
	Since                 *time.Time
}

// chartRange is a time that charts can show.
type chartRange struct {
	Name    string
	Path    string
	Current bool
	step    time.Duration
}

// chartRanges are the choices, the first one is the default.
var chartRanges = []chartRange{
	{Name: "10 min", Path: "./", step: 10 * time.Second},
	{Name: "1 h", Path: "./?range=1h", step: time.Minute},
	{Name: "6 h", Path: "./?range=6h", step: 6 * time.Minute},
	{Name: "24 h", Path: "./?range=24h", step: 24 * time.Minute},
}

// overview renders the overview.
func (v *visit) overview() error {
	s := v.app.Operator()
	status, err := s.Status(v.r.Context())
	if err != nil {
		return err
	}
	page := struct {
		frame
		Status operator.Status
		Ranges []chartRange
		Tiles  []tile
		Charts []*chart
		Open   []delivery.EndpointStatus
		Rows   []operator.Delivery
	}{frame: v.frame("Overview", pageOverview), Status: status, Tiles: tiles(status)}
	step := chartRanges[0].step
	asked := v.r.URL.RawQuery
	for i, c := range chartRanges {
		c.Current = c.Path == "./?"+asked || i == 0 && asked == ""
		if c.Current {
			step = c.step
		}
		page.Ranges = append(page.Ranges, c)
	}
	now := v.now()
	page.Charts = charts(v.history.Since(now.Add(-chartBars*step)), now, step)
	for _, e := range s.Endpoints().Results {
		if (e.State != delivery.Closed || e.URLsOpen > 0) && len(page.Open) < 5 {
			page.Open = append(page.Open, e)
		}
	}
	if status.Store.Ready {
		list, err := s.Deliveries(v.r.Context(), operator.DeliveryQuery{Limit: newest})
		if err != nil {
			return err
		}
		page.Rows = list.Results
	}
	return render(v.w, v.r, http.StatusOK, pageOverview, page)
}

func tiles(s operator.Status) []tile {
	number := func(n int) string { return humanize.Comma(int64(n)) }
	warnIf := func(n int, class string) string {
		if n > 0 {
			return class
		}
		return ""
	}
	pending := tile{ID: "pending", Name: "Pending", Class: "pending", Path: "deliveries?state=pending", Value: number(s.Deliveries.Pending), Note: "none waiting"}
	if !s.OldestPending.IsZero() {
		pending.Note, pending.Since = "oldest from ", &s.OldestPending
	}
	return []tile{
		pending,
		{ID: "delivered", Name: "Delivered", Class: "good", Path: "deliveries?state=delivered", Value: number(s.Deliveries.Delivered), Note: "acknowledged"},
		{ID: "failed", Name: "Failed", Class: warnIf(s.Deliveries.Failed, "bad"), Path: "deliveries?state=failed", Value: number(s.Deliveries.Failed), Note: "no attempts left"},
		{ID: "tracked", Name: "Running", Path: "predictions?status=pending", Value: number(s.TrackedPredictions), Note: "predictions"},
		{ID: "open", Name: "Paused", Class: warnIf(s.EndpointsOpen, "warn"), Path: "endpoints", Value: number(s.EndpointsOpen), Note: "breaker open"},
		{ID: "entries", Name: "Deduplication entries", Path: "events", Value: number(s.DedupEntries), Note: "accepted events"},
	}
}
