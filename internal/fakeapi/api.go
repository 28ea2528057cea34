// Package fakeapi is a strict imitation of a Replicate-style prediction API for
// tests, benchmarks and demonstrations. It refuses what the real one refuses,
// has its peculiarities, and can be made to misbehave.
package fakeapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how the API behaves. The zero value lets any token in, as the
// user "tester", and finishes predictions as soon as they are created, but
// responds to the create with status starting unless the client sends Prefer: wait.
type Options struct {
	// Accounts are the usernames by bearer token; others are 401. nil: any
	// token is "tester", and no Authorization is 401.
	Accounts map[string]string
	// Open lets requests without Authorization in.
	Open bool
	// NoAccounts makes /account 404, as a server without accounts does.
	NoAccounts bool
	// Sync handles every create as if it had Prefer: wait.
	Sync bool
	// Latency is the delay before the response to a create.
	Latency time.Duration
	// Run is the time a prediction takes. It is starting for the first half.
	Run time.Duration
	// Manual keeps predictions starting until Set.
	Manual bool
	// Output is the output of predictions, in JSON. Default: "done".
	Output string
	// Failure makes predictions fail with this error.
	Failure string
	// Gzip compresses responses, whatever the client accepts.
	Gzip bool
	// Lax takes unknown members, which the real API does not.
	Lax bool
	// Webhooks sends the API's own webhooks, if set: start and completed,
	// unsigned.
	Webhooks *http.Client
}

// API is the imitation. Its paths begin with /v1.
type API struct {
	opts  Options
	fault atomic.Pointer[Fault]

	// Creates, Gets, Cancels and Accounts count the requests that were let
	// in, Refused those that were not.
	Creates, Gets, Cancels, Accounts, Refused atomic.Int64

	mu    sync.Mutex
	all   map[string]*prediction
	order []string
	last  *Create
	hooks sync.WaitGroup
}

// Create is a create as the API got it.
type Create struct {
	Path   string
	Header http.Header
	Body   []byte
	// Length is the Content-Length, -1 for none.
	Length int64
}

// Fault responds to a request in place of the API, or returns false.
type Fault func(w http.ResponseWriter, r *http.Request) bool

// New returns an API.
func New(o Options) *API {
	if o.Output == "" {
		o.Output = `"done"`
	}
	return &API{opts: o, all: make(map[string]*prediction)}
}

// Inject puts a fault in front of the API; nil takes it away.
func (a *API) Inject(f Fault) {
	if f == nil {
		a.fault.Store(nil)
		return
	}
	a.fault.Store(&f)
}

// Status returns a fault: requests of a method (empty: any) whose path contains
// part get the status, the given number of times (0: always).
func Status(method, part string, status, times int, header ...string) Fault {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		if method != "" && r.Method != method || !strings.Contains(r.URL.Path, part) {
			return false
		}
		if times > 0 && n.Add(1) > int64(times) {
			return false
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		problem(w, status, http.StatusText(status))
		return true
	}
}

// Last returns the newest create, nil before the first.
func (a *API) Last() *Create {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// IDs returns the ids of the predictions in the order of their creation.
func (a *API) IDs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

// Wait waits until the API's own webhooks have been sent.
func (a *API) Wait() { a.hooks.Wait() }

// ServeHTTP responds as the API does.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := a.fault.Load(); f != nil && (*f)(w, r) {
		return
	}
	user, ok := a.user(r)
	if !ok {
		a.Refused.Add(1)
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem(w, http.StatusUnauthorized, "You did not pass a valid authentication token")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		problem(w, http.StatusNotFound, "not found")
		return
	}
	s := strings.Split(path, "/")
	last := s[len(s)-1]
	switch {
	case r.Method == http.MethodPost && (last == "predictions" || last == "trainings") && validCreate(s):
		a.create(w, r, user, last)
	case r.Method == http.MethodGet && path == "account" && !a.opts.NoAccounts:
		a.Accounts.Add(1)
		a.respond(w, http.StatusOK, fmt.Appendf(nil, `{"type":"user","username":%q,"name":"A tester","github_url":null}`, user))
	case r.Method == http.MethodGet && path == "webhooks/default/secret":
		a.respond(w, http.StatusOK, []byte(`{"key":"whsec_VXBzdHJlYW0ncyBvd24gc2VjcmV0IQ=="}`))
	case r.Method == http.MethodGet && len(s) == 2 && (s[0] == "predictions" || s[0] == "trainings"):
		a.Gets.Add(1)
		a.show(w, user, s[1], false)
	case r.Method == http.MethodPost && len(s) == 3 && last == "cancel":
		a.Cancels.Add(1)
		a.show(w, user, s[1], true)
	case r.Method == http.MethodGet && len(s) == 3 && last == "stream":
		stream(w)
	default:
		problem(w, http.StatusNotFound, "not found")
	}
}

// validCreate knows the paths that predictions and trainings are created at.
func validCreate(s []string) bool {
	switch len(s) {
	case 1:
		return true
	case 4:
		return (s[0] == "models" || s[0] == "deployments") && s[3] == "predictions"
	case 6:
		return s[0] == "models" && s[3] == "versions" && s[5] == "trainings"
	}
	return false
}

func (a *API) user(r *http.Request) (string, bool) {
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return "", a.opts.Open
	}
	token, ok := strings.CutPrefix(auth, "Bearer ")
	if !ok {
		token, ok = strings.CutPrefix(auth, "Token ")
	}
	if !ok || token == "" {
		return "", false
	}
	if a.opts.Accounts == nil {
		return "tester", true
	}
	name, ok := a.opts.Accounts[token]
	return name, ok
}

// known are the members that a create may have.
var known = []string{"version", "input", "webhook", "webhook_events_filter", "stream", "destination"}

// create creates a prediction.
func (a *API) create(w http.ResponseWriter, r *http.Request, user, collection string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	a.mu.Lock()
	a.last = &Create{Path: r.URL.Path, Header: r.Header, Body: body, Length: r.ContentLength}
	a.mu.Unlock()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		problem(w, http.StatusBadRequest, "The request body is not a JSON object")
		return
	}
	if !a.opts.Lax {
		for name := range members {
			if !slices.Contains(known, name) {
				problem(w, http.StatusUnprocessableEntity, "- "+name+": Additional property "+name+" is not allowed\n")
				return
			}
		}
	}
	if err := checkFilter(members["webhook_events_filter"]); err != nil && !a.opts.Lax {
		problem(w, http.StatusUnprocessableEntity, "- webhook_events_filter: "+err.Error()+"\n")
		return
	}
	if len(members["input"]) == 0 || members["input"][0] != '{' {
		problem(w, http.StatusUnprocessableEntity, "- input is required\n")
		return
	}
	if a.opts.Latency > 0 {
		timer := time.NewTimer(a.opts.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	a.Creates.Add(1)
	p := newPrediction(a, user, collection, r.Host, members)
	a.mu.Lock()
	a.all[p.id] = p
	a.order = append(a.order, p.id)
	a.mu.Unlock()
	status := "starting"
	if a.opts.Sync || strings.HasPrefix(r.Header.Get("Prefer"), "wait") {
		status = p.now()
	}
	a.respond(w, http.StatusCreated, p.json(status))
	a.notify(p)
}

// checkFilter knows the events that a webhook may be asked for.
func checkFilter(filter json.RawMessage) error {
	var names []string
	if len(filter) > 0 {
		if err := json.Unmarshal(filter, &names); err != nil {
			return err
		}
	}
	for _, name := range names {
		if !slices.Contains([]string{"start", "output", "logs", "completed"}, name) {
			return fmt.Errorf("%q must be one of the following: \"start\", \"output\", \"logs\", \"completed\"", name)
		}
	}
	return nil
}

// show responds with a prediction. It cancels it first if cancel is set.
func (a *API) show(w http.ResponseWriter, user, id string, cancel bool) {
	a.mu.Lock()
	p := a.all[id]
	if p != nil && cancel && !terminal(p.now()) {
		p.set = "canceled"
	}
	a.mu.Unlock()
	if p == nil || p.user != user {
		problem(w, http.StatusNotFound, "The requested resource could not be found.")
		return
	}
	a.mu.Lock()
	body := p.json(p.now())
	a.mu.Unlock()
	a.respond(w, http.StatusOK, body)
}

// respond writes a response in JSON.
func (a *API) respond(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Etag", `"`+strconv.Itoa(len(body))+`"`)
	if a.opts.Gzip {
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = z.Write(body)
		_ = z.Close()
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func problem(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(map[string]any{"title": http.StatusText(status), "detail": detail, "status": status})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// stream responds with a few server-sent events.
func stream(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for i, word := range []string{"a", "few", "words"} {
		_, _ = fmt.Fprintf(w, "event: output\nid: %d\ndata: %s\n\n", i, word)
		_ = rc.Flush()
	}
	_, _ = io.WriteString(w, "event: done\ndata: {}\n\n")
}

// Interface guards.
var _ http.Handler = (*API)(nil)
