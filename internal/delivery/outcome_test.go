package delivery

import "testing"

func TestEveryOutcomeHasALabelAndAClass(t *testing.T) {
	labels := make(map[string]bool)
	for _, o := range Outcomes() {
		label := o.String()
		if label == "" || labels[label] || o.Class() == 0 {
			t.Errorf("outcome %d has label %q and class %d", o, label, o.Class())
		}
		labels[label] = true
		if o.success() && o.blames() != blameNothing || o.blames() == blameEndpoint && o.responded() {
			t.Errorf("%s: success %t, responded %t, blames %d", o, o.success(), o.responded(), o.blames())
		}
	}
	if len(labels) != int(endOfOutcomes)-1 {
		t.Errorf("%d outcomes, want %d", len(labels), endOfOutcomes-1)
	}
	ends := make(map[string]bool)
	for _, f := range Finals() {
		if f.String() == "" || ends[f.String()] {
			t.Errorf("end %d has label %q", f, f)
		}
		ends[f.String()] = true
	}
	if len(ends) != int(endOfFinals)-1 {
		t.Errorf("%d ends, want %d", len(ends), endOfFinals-1)
	}
}

func TestWhatAStatusCountsAgainst(t *testing.T) {
	for status, want := range map[int]blame{
		101: blameURL, 200: blameNothing, 204: blameNothing, 299: blameNothing, 301: blameURL, 304: blameURL, 400: blameURL, 401: blameURL,
		404: blameURL, 410: blameNothing, 413: blameURL, 429: blameURL, 500: blameURL, 503: blameURL, 599: blameURL, 700: blameURL,
	} {
		if o := ofStatus(status); o.blames() != want || !o.responded() {
			t.Errorf("status %d: %v, responded %t; want %v", status, o.blames(), o.responded(), want)
		}
	}
}
