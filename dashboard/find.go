package dashboard

import (
	"net/http"
	"net/url"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// find shows what the text of the search box finds. One whole id leads to its page.
func (v *visit) find() error {
	q, err := operator.ParseFindQuery(v.r.URL.Query())
	if err != nil {
		return err
	}
	page := struct {
		frame
		operator.Found
		Rows   []operator.Delivery
		Events struct {
			Up   string
			Rows []operator.Event
		}
	}{frame: v.frame("Search", pageFind)}
	page.Search = q.Text
	if q.Text == "" {
		return render(v.w, v.r, http.StatusOK, pageFind, &page)
	}
	if page.Found, err = v.app.Operator().Find(v.r.Context(), q); err != nil {
		return err
	}
	if to := exact(&page.Found); to != "" {
		v.w.Header().Set("Location", to)
		v.w.WriteHeader(http.StatusSeeOther)
		return nil
	}
	page.Rows, page.Events.Rows, page.Events.Up = page.Found.Deliveries, page.Found.Events, page.Up
	return render(v.w, v.r, http.StatusOK, pageFind, &page)
}

// exact returns the page of the one thing whose id is the text, empty if there is
// none or are more.
func exact(f *operator.Found) string {
	to, n := "", 0
	for _, p := range f.Predictions {
		if p.ID == f.Text {
			to = "prediction?" + url.Values{"id": {p.ID}, "api": {p.API}}.Encode()
			n++
		}
	}
	for _, d := range f.Deliveries {
		if d.ID == f.Text {
			to = "deliveries/" + url.PathEscape(d.ID)
			n++
		}
	}
	for _, e := range f.Events {
		switch {
		case e.ID == f.Text:
			to = "events/" + url.PathEscape(e.ID)
			n++
		case e.Prediction == f.Text && n == 0:
			to = "prediction?" + url.Values{"id": {e.Prediction}}.Encode()
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return to
}
