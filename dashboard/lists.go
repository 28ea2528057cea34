package dashboard

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// option is a choice of a filter.
type option struct {
	Value, Name string
	Selected    bool
}

// options returns the choices of a filter. The requested one is always among
// them.
func options(asked string, choices ...option) []option {
	found := false
	for i := range choices {
		choices[i].Selected = choices[i].Value == asked
		found = found || choices[i].Selected
	}
	if !found {
		choices = append(choices, option{asked, asked, true})
	}
	return choices
}

// selection returns the query of a list without where its page begins.
func selection(q url.Values) template.URL {
	q.Del("cursor")
	q.Del("limit")
	return template.URL(q.Encode())
}

// Only reports whether a choice is selected.
func (f *listForm) Only(states ...string) bool {
	return slices.ContainsFunc(f.State, func(o option) bool { return o.Selected && slices.Contains(states, o.Value) })
}

// choice returns a choice of a filter whose name is its value.
func choice(value string) option { return option{value, value, false} }

func sinceOptions(asked string) []option {
	return options(asked, option{"", "any time", false}, option{"10m", "the last 10 min", false}, option{"1h", "the last hour", false},
		option{"24h", "the last 24 h", false}, option{"168h", "the last 7 d", false})
}

func responseOptions(asked string) []option {
	return options(asked, option{"", "any", false}, choice("2xx"), choice("3xx"), choice("4xx"), choice("5xx"), option{"none", "no response", false})
}

// listForm is the filter of a list.
type listForm struct {
	State, Event, Since, Response []option

	Client, Endpoint, Prediction, Scope, Name string
	// Active: it takes something away.
	Active bool
	// Query is the filter as the query of a URL.
	Query template.URL
}

// pager leads through a list.
type pager struct {
	// Paged: this is not the first page.
	Paged bool
	// More pages follow.
	More                bool
	NewestURL, OlderURL string
}

func pages(section string, q url.Values, next string) pager {
	p := pager{Paged: q.Has("cursor"), More: next != ""}
	q.Del("cursor")
	p.NewestURL = section + "?" + q.Encode()
	q.Set("cursor", next)
	p.OlderURL = section + "?" + q.Encode()
	return p
}

// deliveries lists deliveries.
func (v *visit) deliveries() error {
	q, err := operator.ParseDeliveryQuery(v.r.URL.Query())
	if err != nil {
		return err
	}
	list, err := v.app.Operator().Deliveries(v.r.Context(), q)
	if err != nil {
		return err
	}
	page := struct {
		frame
		pager
		Form listForm
		Rows []operator.Delivery
	}{frame: v.frame("Deliveries", pageDeliveries), pager: pages(pageDeliveries, q.Values(), list.Next), Rows: list.Results}
	page.Form = listForm{
		Query: selection(q.Values()),
		State: options(q.State, option{"", "any", false}, choice("pending"), choice("delivered"),
			choice("failed"), choice("superseded"), choice("canceled")),
		Event:    options(q.Event, option{"", "any", false}, choice("started"), choice("completed"), choice("failed")),
		Since:    sinceOptions(q.Since),
		Response: responseOptions(q.Response),
		Client:   q.Client, Endpoint: q.Endpoint, Prediction: q.Prediction,
		Active: q.State+q.Event+q.Since+q.Response+q.Client+q.Endpoint+q.Prediction != "",
	}
	return render(v.w, v.r, http.StatusOK, pageDeliveries, &page)
}

// predictions lists predictions.
func (v *visit) predictions() error {
	q, err := operator.ParsePredictionQuery(v.r.URL.Query())
	if err != nil {
		return err
	}
	list, err := v.app.Operator().Predictions(v.r.Context(), q)
	if err != nil {
		return err
	}
	page := struct {
		frame
		pager
		Form        listForm
		Predictions []operator.Prediction
	}{frame: v.frame("Predictions", pagePredictions), pager: pages(pagePredictions, q.Values(), list.Next), Predictions: list.Results}
	page.Form = listForm{
		State:      options(q.Status, option{"", "any", false}, choice("pending"), choice("delivered"), choice("failed"), choice("disabled")),
		Prediction: q.ID,
		Active:     q.Status+q.ID != "",
	}
	return render(v.w, v.r, http.StatusOK, pagePredictions, page)
}
