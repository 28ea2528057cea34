package admin_test

import (
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/operate"
	"github.com/caddy-replicate/replicate-webhook/internal/siterun"
)

func TestStatusCountsDeliveries(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	st := s.Status()
	if st.API != operate.APIVersion || st.Store.Kind != "sqlite" || !st.Store.Ready || st.Deliveries != (operate.DeliveryCounts{}) {
		t.Fatalf("at the start: %+v", st)
	}
	s.Create("/hook")
	st = s.Settled(2)
	if st.Deliveries.Delivered != 2 || st.Attempts.Endpoints != 1 {
		t.Fatalf("in the end: %+v", st)
	}
}
