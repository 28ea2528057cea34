package dashboard

import (
	"fmt"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/history"
)

// series is one series of a chart.
type series struct {
	Name  string
	Class string // of its marks
	Total int64
	of    func(*history.Sample) (n int64, known bool)
}

// chart is a stack of bars over time, laid out in a box of chartWidth by
// chartHeight units.
type chart struct {
	ID     string
	Title  string
	Help   string
	Series []series
	Bars   []bar
	Max    int64 // the value at the top
	Total  int64
	From   time.Time
	To     time.Time
	Step   time.Duration
	// Level charts show how much there is, others how much there was.
	Level bool
	Now   int64
}

// bar is one step of time.
type bar struct {
	Slot     int // where its room begins
	X, Width int
	Parts    []part
	// Title is a description of what it shows.
	Title string
	From  time.Time
	// Values are the numbers, in the order of the series.
	Values []int64
}

// part is one series' share of a bar.
type part struct {
	Y, Height int
	Class     string
}

const (
	chartWidth  = 720
	chartHeight = 120
	chartBars   = 60
	barWidth    = chartWidth / chartBars
	barGap      = 3
)

// Label describes the chart in words, for screen readers.
func (c *chart) Label() string {
	text := c.Title
	for i, s := range c.Series {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		if c.Level {
			text += fmt.Sprint(sep, c.Now, " ", s.Name, " now")
		} else {
			text += fmt.Sprint(sep, s.Total, " ", s.Name)
		}
	}
	return text
}

// Width, Height and BarWidth are the box of the chart and of a bar's slot.
func (*chart) Width() int    { return chartWidth }
func (*chart) Height() int   { return chartHeight }
func (*chart) BarWidth() int { return barWidth }

// Ago returns how far back the chart goes, StepText the time of a bar.
func (c *chart) Ago() string      { return spanText(chartBars * c.Step) }
func (c *chart) StepText() string { return spanText(c.Step) }

func spanText(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprint(int(d/time.Hour), " h")
	case d >= time.Minute:
		return fmt.Sprint(int(d/time.Minute), " min")
	}
	return fmt.Sprint(int(d/time.Second), " s")
}

// Empty reports whether there is nothing to see.
func (c *chart) Empty() bool { return c.Max == 0 }

// spread lays samples out in bars that end at a time.
func (c *chart) spread(samples []history.Sample, to time.Time, step time.Duration) {
	c.Step, c.To, c.From = step, to, to.Add(-chartBars*step)
	values := make([][]int64, chartBars)
	for i := range values {
		values[i] = make([]int64, len(c.Series))
	}
	for i := range samples {
		s := &samples[i]
		// A sample belongs to the bar that its end is in.
		n := int((s.End.Sub(c.From) - 1) / step)
		if s.End.Before(c.From) || n < 0 || n >= chartBars {
			continue
		}
		for j := range c.Series {
			v, known := c.Series[j].of(s)
			switch {
			case !known:
			case c.Level:
				values[n][j] = max(values[n][j], v)
				c.Now = v
			default:
				values[n][j] += v
				c.Series[j].Total += v
				c.Total += v
			}
		}
	}
	for _, v := range values {
		var total int64
		for _, n := range v {
			total += n
		}
		c.Max = max(c.Max, total)
	}
	c.Max = niceMax(c.Max)
	for i, v := range values {
		c.Bars = append(c.Bars, c.bar(i, v))
	}
}

func (c *chart) bar(i int, values []int64) bar {
	b := bar{Slot: i * barWidth, X: i*barWidth + barGap/2, Width: barWidth - barGap, From: c.From.Add(time.Duration(i) * c.Step), Values: values}
	y := chartHeight
	b.Title = b.From.UTC().Format("15:04:05") + " UTC"
	for j, n := range values {
		if n == 0 {
			continue
		}
		// What is there is seen, however little of it.
		height := max(int(n*chartHeight/c.Max), 2)
		height = min(height, y)
		y -= height
		b.Parts = append(b.Parts, part{Y: y, Height: height, Class: c.Series[j].Class})
		b.Title += fmt.Sprint(", ", n, " ", c.Series[j].Name)
	}
	return b
}

// niceMax returns the least of 1, 2, 3, 4, 6, 8, 10, 20, 30 … that is not below
// n, 0 for 0.
func niceMax(n int64) int64 {
	if n <= 0 {
		return 0
	}
	for scale := int64(1); ; scale *= 10 {
		for _, m := range []int64{1, 2, 3, 4, 6, 8} {
			if m*scale >= n {
				return m * scale
			}
		}
	}
}

// charts returns the charts of the overview.
func charts(samples []history.Sample, to time.Time, step time.Duration) []*chart {
	counter := func(i int) func(*history.Sample) (int64, bool) {
		return func(s *history.Sample) (int64, bool) { return int64(s.Counts[i]), true }
	}
	all := []*chart{{
		ID: "chart-out", Title: "Delivery attempts", Help: "By outcome.",
		Series: []series{
			{Name: "delivered", Class: "good", of: counter(history.AttemptsDelivered)},
			{Name: "refused", Class: "bad", of: counter(history.AttemptsRefused)},
			{Name: "no response", Class: "worse", of: counter(history.AttemptsNoResponse)},
		},
	}, {
		ID: "chart-in", Title: "Webhooks received", Help: "By outcome at the edge.",
		Series: []series{
			{Name: "accepted", Class: "good", of: counter(history.RequestsAccepted)},
			{Name: "duplicates stopped", Class: "neutral", of: counter(history.RequestsDuplicate)},
			{Name: "rejected", Class: "bad", of: counter(history.RequestsRejected)},
			{Name: "temporarily refused", Class: "worse", of: counter(history.RequestsRefused)},
		},
	}, {
		ID: "chart-pending", Title: "Backlog", Help: "Pending deliveries.", Level: true,
		Series: []series{
			{Name: "pending", Class: "pending", of: func(s *history.Sample) (int64, bool) { return int64(s.Pending), s.Pending >= 0 }},
		},
	}}
	for _, c := range all {
		c.spread(samples, to, step)
	}
	return all
}
