package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// App is the part of the app module replicate_webhook that the dashboard needs.
type App interface {
	Operator() *operator.Service
}

// maxForm bounds a posted form, in bytes.
const maxForm = 16 << 10

// visit is a request for a page.
type visit struct {
	*Handler
	w    http.ResponseWriter
	r    *http.Request
	rt   route
	user string
}

// page renders a page or executes a form.
func (h *Handler) page(w http.ResponseWriter, r *http.Request, rt route, user string) error {
	v := &visit{h, w, r, rt, user}
	var err error
	switch rt.page {
	case pageOverview:
		err = v.overview()
	case pageDeliveries:
		err = v.deliveries()
	case pageDelivery:
		err = v.delivery()
	case pagePredictions:
		err = v.predictions()
	case pageAll:
		err = v.all()
	case pageFind:
		err = v.find()
	case pagePrediction:
		err = v.prediction()
	case pageEndpoint:
		err = v.endpoint()
	case pageEndpoints:
		err = v.endpoints()
	case pageEvents:
		err = v.events()
	case pageEvent:
		err = v.event()
	case pageInbox:
		err = v.inbox()
	case pagePayload:
		err = v.payload()
	case doRedeliver:
		err = v.change(v.redeliver)
	case doReset:
		err = v.change(v.reset)
	case doPause, doResume:
		err = v.change(v.setPaused)
	default: // an action of an event
		err = v.change(v.changeEvent)
	}
	return v.explain(err)
}

// explain renders a page for an error that the user can do something about.
func (v *visit) explain(err error) error {
	var handled caddyhttp.HandlerError
	if err == nil || errors.As(err, &handled) || v.r.Context().Err() != nil {
		return err
	}
	status := operator.HTTPStatus(err)
	switch status {
	case http.StatusBadRequest:
		return v.problem(status, "That can't be asked for", "The "+err.Error()+".")
	case http.StatusNotFound:
		return v.problem(status, "There is no such thing", "It never was, or it is forgotten by now: finished deliveries and events are kept for the time of retention, endpoints for five minutes.")
	case http.StatusConflict:
		if !errors.Is(err, operator.ErrDisabled) {
			return v.problem(status, "That can't be done now", "The "+err.Error()+".")
		}
		return v.problem(status, "The webhook is disabled", "The client has switched it off, or its receiver has said with a 410 that it is gone. There is nowhere to deliver to.")
	case http.StatusServiceUnavailable:
		v.logger.Error("the dashboard can't ask the store", zap.Error(err))
		v.w.Header().Set("Retry-After", "5")
		return v.problem(status, "The store can't be asked now", "Nothing is lost by that. The log says why; this page can be loaded again when it is back.")
	}
	return caddyhttp.Error(status, err)
}

// frame returns what the page has around it.
func (v *visit) frame(title, section string) frame {
	return frame{Title: title, Section: section, Up: v.rt.up, User: v.user, Nav: sections}
}

// withToken is like frame, for a page with a form that changes something.
func (v *visit) withToken(title, section string) frame {
	f := v.frame(title, section)
	f.Token = masked(token(v.w, v.r))
	return f
}

func (v *visit) problem(status int, title, text string) error {
	page := struct {
		frame
		Text, Back, BackText string
	}{v.frame(title, pageProblem), text, v.rt.up, "To the overview"}
	return render(v.w, v.r, status, pageProblem, page)
}

// missing is the page for a path that the dashboard does not have.
func (v *visit) missing() error {
	return v.problem(http.StatusNotFound, "There is no such page", "The dashboard has no page at this address. The menu above leads to those that there are.")
}

// signedOut is the page for those who are not signed in. It loads nothing, since
// they get nothing else.
func (h *Handler) signedOut(w http.ResponseWriter, r *http.Request) error {
	page := struct{ User string }{h.User}
	return write(w, r, http.StatusForbidden, pageSignedOut, pageSignedOut, page)
}

// change executes a form of this dashboard. It refuses those of other sites and
// stale ones.
func (v *visit) change(do func(context.Context) (location string, err error)) error {
	if err := crossOrigin.Check(v.r); err != nil {
		v.logger.Warn("refused a change that another site asked for", zap.String("what", v.rt.page), zap.String("user", v.user), zap.Error(err))
		return v.problem(http.StatusForbidden, "Not done", "The request did not come from a page of this dashboard. Load the page again, and repeat it.")
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading a form: %w", err))
	}
	if !hasToken(v.r) {
		return v.problem(http.StatusForbidden, "Not done", "The form was not one of this page's, or this browser keeps no cookies. Go back, load the page again, and repeat it.")
	}
	// The change is made even if the browser disconnects.
	location, err := do(context.WithoutCancel(v.r.Context()))
	if err != nil {
		return err
	}
	v.logger.Info("changed from the dashboard", zap.String("what", v.rt.page), zap.String("user", v.user), zap.String("of", v.rt.name))
	v.w.Header().Set("Location", location)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (v *visit) redeliver(ctx context.Context) (string, error) {
	again, err := v.app.Operator().Redeliver(ctx, v.rt.name)
	return "../" + url.PathEscape(again.ID) + "?again=" + url.QueryEscape(again.Of), err
}

func (v *visit) reset(context.Context) (string, error) {
	reset, err := v.app.Operator().ResetEndpoint(v.r.PostForm.Get("endpoint"))
	return "../endpoints?reset=" + url.QueryEscape(reset.Endpoint), err
}

// pending returns the number of pending deliveries, for the chart.
func (h *Handler) pending(ctx context.Context) (int, error) {
	c, err := h.app.Operator().Counts(ctx)
	return c.Deliveries[store.DeliveryPending], err
}

// delivery shows one delivery.
func (v *visit) delivery() error {
	d, err := v.app.Operator().Delivery(v.r.Context(), v.rt.name)
	if err != nil {
		return err
	}
	page := struct {
		frame
		content
		Delivery operator.DeliveryDetail
		Steps    []step
		Again    string
	}{
		frame:    v.withToken(d.Event+" of "+d.Prediction, pageDeliveries),
		content:  v.content(d.Payload),
		Delivery: d,
		Steps:    steps(d.Log, d.URL),
	}
	if again := v.r.URL.Query().Get("again"); validID(again) {
		page.Again = again
	}
	return render(v.w, v.r, http.StatusOK, pageDelivery, page)
}

// step is an attempt in the timeline.
type step struct {
	operator.Attempt
	Good       bool
	StatusText string
	Took       string
	// Reason is the error, unless the status says as much.
	Reason string
	// Wait is the time since the attempt before, in words.
	Wait string
	// Open shows the response from the start.
	Open bool
	// Elsewhere: it went to another URL than the delivery's of now.
	Elsewhere bool
}

// steps returns the attempts of a delivery whose URL is now url.
func steps(log []operator.Attempt, url string) []step {
	all := make([]step, len(log))
	for i, a := range log {
		took := time.Duration(a.Seconds * float64(time.Second))
		all[i] = step{Attempt: a, Elsewhere: a.URL != url, Good: a.OK(), StatusText: http.StatusText(a.Status), Took: span(took), Reason: reason(a.Status, a.Error), Open: !a.OK() && i == len(log)-1}
		if i > 0 {
			all[i].Wait = span(a.At.Sub(log[i-1].At))
		}
	}
	return all
}

// endpoints shows the receivers and their breakers.
func (v *visit) endpoints() error {
	page := struct {
		frame
		operator.Endpoints
		Reset string
	}{v.withToken("Endpoints", pageEndpoints), v.app.Operator().Endpoints(), v.r.URL.Query().Get("reset")}
	return render(v.w, v.r, http.StatusOK, pageEndpoints, page)
}
