package dashboard

import (
	"net/http"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// prediction shows what happened to a prediction.
func (v *visit) prediction() error {
	q := v.r.URL.Query()
	life, err := v.app.Operator().Life(v.r.Context(), q.Get("id"), q.Get("api"))
	if err != nil {
		return err
	}
	page := struct {
		frame
		Life  operator.Life
		Steps []lifeStep
	}{v.frame("Prediction "+life.ID, pagePredictions), life, lifeSteps(life.Steps)}
	return render(v.w, v.r, http.StatusOK, pagePrediction, page)
}

// lifeStep is a step on the page of a prediction.
type lifeStep struct {
	operator.LifeStep
	Class string // of its mark
	// Made is the attempt, of LifeAttempt.
	Made *step
}

func lifeSteps(all []operator.LifeStep) []lifeStep {
	out := make([]lifeStep, len(all))
	for i, s := range all {
		l := lifeStep{LifeStep: s, Class: "neutral"}
		state := ""
		switch {
		case s.Delivery != nil:
			state = s.Delivery.State
		case s.Event != nil:
			state = s.Event.State
		}
		switch s.Kind {
		case operator.LifeWaits:
			l.Class = "pending"
		case operator.LifeAttempt:
			l.Made = &steps([]operator.Attempt{*s.Attempt}, s.Attempt.URL)[0]
			l.Made.Open = false
			if l.Class = "bad"; l.Made.Good {
				l.Class = "good"
			}
		case operator.LifeEnded:
			switch state {
			case "delivered", "accepted":
				l.Class = "good"
			case "failed", "refused":
				l.Class = "bad"
			}
		}
		out[i] = l
	}
	return out
}

// endpoint shows one endpoint.
func (v *visit) endpoint() error {
	q := operator.DeliveryQuery{Endpoint: v.r.URL.Query().Get("endpoint"), Limit: newest}
	if q.Endpoint == "" {
		return operator.ErrNotFound
	}
	s := v.app.Operator()
	list, err := s.Deliveries(v.r.Context(), q)
	if err != nil {
		return err
	}
	page := struct {
		frame
		Endpoint string
		Status   *delivery.EndpointStatus
		Rows     []operator.Delivery
	}{frame: v.withToken("Endpoint "+q.Endpoint, pageEndpoints), Endpoint: q.Endpoint, Rows: list.Results}
	for _, e := range s.Endpoints().Results {
		if e.Endpoint == q.Endpoint || len(list.Results) > 0 && e.Endpoint == list.Results[0].Endpoint {
			page.Endpoint, page.Status = e.Endpoint, &e
		}
	}
	if page.Status == nil && len(list.Results) == 0 {
		return operator.ErrNotFound
	}
	return render(v.w, v.r, http.StatusOK, pageEndpoint, page)
}
