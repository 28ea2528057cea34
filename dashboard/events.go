package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// events lists the events that the edge accepted, and the inboxes that have them.
func (v *visit) events() error {
	q, err := operator.ParseEventQuery(v.r.URL.Query())
	if err != nil {
		return err
	}
	list, err := v.app.Operator().Events(v.r.Context(), q)
	if err != nil {
		return err
	}
	inboxes, err := v.app.Operator().Inboxes(v.r.Context())
	if err != nil {
		return err
	}
	page := struct {
		frame
		pager
		Form    listForm
		Rows    []operator.Event
		Inboxes []operator.Inbox
	}{frame: v.frame("Events", pageEvents), pager: pages(pageEvents, q.Values(), list.Next), Rows: list.Results, Inboxes: inboxes.Results}
	page.Form = listForm{
		Query:    selection(q.Values()),
		State:    options(q.State, option{"", "any", false}, choice("waiting"), choice("running"), choice("accepted"), choice("refused"), choice("failed"), choice("discarded")),
		Since:    sinceOptions(q.Since),
		Response: responseOptions(q.Response),
		Scope:    q.Scope, Name: q.Event, Prediction: q.Prediction,
		Active: q.State+q.Scope+q.Event+q.Since+q.Response+q.Prediction != "",
	}
	return render(v.w, v.r, http.StatusOK, pageEvents, &page)
}

// event shows one event.
func (v *visit) event() error {
	e, err := v.app.Operator().Event(v.r.Context(), v.rt.name)
	if err != nil {
		return err
	}
	title := e.Event.Event
	if title == "" {
		title = "Event"
	}
	page := struct {
		frame
		content
		Event operator.EventDetail
		Name  string
		Steps []step
		Done  string
	}{frame: v.withToken(title+" of "+e.Scope, pageEvents), content: v.content(e.Payload), Event: e, Name: title, Steps: steps(e.Log, "")}
	switch done := operator.EventAction(v.r.URL.Query().Get("done")); done {
	case operator.ActionRetry:
		page.Done = "The event is due now."
	case operator.ActionDiscard:
		page.Done = "The event was discarded: the app will not get it."
	case operator.ActionReplay:
		page.Done = "The event waits to be forwarded again."
	}
	return render(v.w, v.r, http.StatusOK, pageEvent, page)
}

// changeEvent does something with an event.
func (v *visit) changeEvent(ctx context.Context) (string, error) {
	done, err := v.app.Operator().ChangeEvent(ctx, operator.EventAction(v.rt.page), v.rt.name)
	return "../" + url.PathEscape(done.ID) + "?done=" + url.QueryEscape(string(done.Action)), err
}

// inbox shows the inbox of a scope.
func (v *visit) inbox() error {
	scope := v.r.URL.Query().Get("scope")
	all, err := v.app.Operator().Inboxes(v.r.Context())
	if err != nil {
		return err
	}
	for _, in := range all.Results {
		if in.Scope != scope {
			continue
		}
		waiting, err := v.app.Operator().Events(v.r.Context(), operator.EventQuery{Scope: scope, State: "waiting", Limit: newest})
		if err != nil {
			return err
		}
		page := struct {
			frame
			Inbox operator.Inbox
			Bytes string
			Rows  []operator.Event
		}{v.withToken("Inbox "+scope, pageEvents), in, size(int(in.Bytes)), waiting.Results}
		return render(v.w, v.r, http.StatusOK, pageInbox, page)
	}
	return operator.ErrNotFound
}

// setPaused pauses or resumes an inbox.
func (v *visit) setPaused(ctx context.Context) (string, error) {
	p, err := v.app.Operator().SetPaused(ctx, v.r.PostForm.Get("scope"), v.rt.page == doPause)
	return "../inbox?scope=" + url.QueryEscape(p.Scope), err
}

// content is a payload on a page.
type content struct {
	Payload     string
	PayloadCut  bool
	PayloadSize string
	// Raw: it is shown as it is, not indented.
	Raw bool
}

// content returns a payload as the page's query wants it shown.
func (v *visit) content(payload []byte) content {
	c := content{PayloadSize: size(len(payload)), Raw: v.r.URL.Query().Get("view") == "raw"}
	if c.Raw {
		c.Payload, c.PayloadCut = cut(payload)
		return c
	}
	c.Payload, c.PayloadCut = pretty(payload)
	return c
}

// payload serves a payload to be kept as a file, byte for byte. Browsers show it
// as no page.
func (v *visit) payload() error {
	var body []byte
	if v.rt.kind == pageEvents {
		e, err := v.app.Operator().Event(v.r.Context(), v.rt.name)
		if err != nil {
			return err
		}
		if body = e.Payload; body == nil {
			return operator.ErrNotFound
		}
	} else {
		d, err := v.app.Operator().Delivery(v.r.Context(), v.rt.name)
		if err != nil {
			return err
		}
		body = d.Payload
	}
	h := v.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Disposition", `attachment; filename="`+strings.ToLower(v.rt.name)+`.json"`)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if v.r.Method == http.MethodHead {
		return nil
	}
	// A client that is gone is nobody's error.
	_, _ = v.w.Write(body)
	return nil
}
