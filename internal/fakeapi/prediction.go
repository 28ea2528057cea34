package fakeapi

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// prediction is a prediction that was created.
type prediction struct {
	api        *API
	id, user   string
	collection string
	base       string // of its URLs
	version    string
	input      json.RawMessage
	webhook    string
	filter     []string
	created    time.Time
	set        string // by Set or a cancel, empty: by the clock
	output     string // by Set
	logs       string // by Log, empty: a line
}

func newPrediction(a *API, user, collection, host string, members map[string]json.RawMessage) *prediction {
	p := &prediction{
		api:        a,
		id:         strings.ToLower(rand.Text()),
		user:       user,
		collection: collection,
		base:       "http://" + host + "/v1/" + collection + "/",
		input:      members["input"],
		created:    time.Now(),
	}
	// Wrong types are the caller's fault and end up empty.
	_ = json.Unmarshal(members["version"], &p.version)
	_ = json.Unmarshal(members["webhook"], &p.webhook)
	_ = json.Unmarshal(members["webhook_events_filter"], &p.filter)
	return p
}

func terminal(status string) bool {
	return status == "succeeded" || status == "failed" || status == "canceled"
}

// now returns the prediction's status.
func (p *prediction) now() string {
	age := time.Since(p.created)
	switch {
	case p.set != "":
		return p.set
	case p.api.opts.Manual || p.api.opts.Run > 0 && age < p.api.opts.Run/2:
		return "starting"
	case age < p.api.opts.Run:
		return "processing"
	case p.api.opts.Failure != "":
		return "failed"
	}
	return "succeeded"
}

// stamp writes a time as the API does, with nine digits in what it stores and
// three in what it has at hand.
func stamp(t time.Time, digits string) string {
	return t.UTC().Format("2006-01-02T15:04:05." + digits + "Z")
}

// json returns the prediction with a status. Like the real API's, it ends in a
// newline and has the HTML characters escaped.
func (p *prediction) json(status string) []byte {
	b := make([]byte, 0, 512+len(p.input)+len(p.api.opts.Output))
	text := func(name, value string) {
		b = append(b, name...)
		b = strconv.AppendQuote(b, value)
	}
	text(`{"id":`, p.id)
	text(`,"model":"tester/model","version":`, p.version)
	b = append(b, `,"input":`...)
	b = append(b, p.input...)
	b = append(b, `,"logs":`...)
	if p.logs != "" {
		b = append(b, p.logs...)
	} else {
		b = append(b, `"\u003clog\u003e"`...)
	}
	b = append(b, `,"output":`...)
	switch {
	case p.output != "":
		b = append(b, p.output...)
	case status == "succeeded":
		b = append(b, p.api.opts.Output...)
	default:
		b = append(b, "null"...)
	}
	b = append(b, `,"data_removed":false,"error":`...)
	if status == "failed" {
		b = strconv.AppendQuote(b, p.api.opts.Failure)
	} else {
		b = append(b, "null"...)
	}
	text(`,"status":`, status)
	text(`,"created_at":`, stamp(p.created, "000"))
	if status != "starting" {
		text(`,"started_at":`, stamp(p.created, "000000000"))
	}
	if terminal(status) {
		text(`,"completed_at":`, stamp(p.created.Add(p.api.opts.Run), "000000000"))
	}
	if p.webhook != "" {
		text(`,"webhook":`, p.webhook)
		filter, _ := json.Marshal(p.filter)
		b = append(b, `,"webhook_events_filter":`...)
		b = append(b, filter...)
	}
	text(`,"urls":{"cancel":`, p.base+p.id+"/cancel")
	text(`,"get":`, p.base+p.id)
	text(`,"stream":`, p.base+p.id+"/stream")
	return append(b, "},\"webhook_completed\":null}\n"...)
}

// Set sets the status of a prediction, and its output in JSON unless that is
// empty. It reports whether there is such a prediction.
func (a *API) Set(id, status, output string) bool {
	a.mu.Lock()
	p := a.all[id]
	if p != nil {
		p.set, p.output = status, output
	}
	a.mu.Unlock()
	switch {
	case p == nil:
	case terminal(status):
		a.hook(p, "completed", status)
	case output != "":
		a.hook(p, "output", status)
	}
	return p != nil
}

// Log sets the logs of a prediction that runs, in JSON.
func (a *API) Log(id, logs string) {
	a.mu.Lock()
	p := a.all[id]
	p.logs = logs
	status := p.now()
	a.mu.Unlock()
	a.hook(p, "logs", status)
}

// notify sends the API's own webhooks of a new prediction.
func (a *API) notify(p *prediction) {
	if p.webhook == "" || a.opts.Webhooks == nil {
		return
	}
	a.hooks.Add(1)
	go func() {
		defer a.hooks.Done()
		a.hook(p, "start", "processing")
		if !a.opts.Manual {
			timer := time.NewTimer(a.opts.Run)
			defer timer.Stop()
			<-timer.C
			a.mu.Lock()
			status := p.now()
			a.mu.Unlock()
			a.hook(p, "completed", status)
		}
	}()
}

// hook posts a bare prediction object, as the API does, once.
func (a *API) hook(p *prediction, event, status string) {
	wanted := p.filter
	if len(wanted) == 0 {
		wanted = []string{"output", "completed"} // as documented
	}
	if p.webhook == "" || a.opts.Webhooks == nil || !slices.Contains(wanted, event) {
		return
	}
	a.mu.Lock()
	body := p.json(status)
	a.mu.Unlock()
	req, err := http.NewRequest(http.MethodPost, p.webhook, bytes.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	if resp, err := a.opts.Webhooks.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}
