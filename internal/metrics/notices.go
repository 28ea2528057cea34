package metrics

var notices = counters("notices_total", "Notices of notify that ended, by what they are about and outcome: sent, or failed once the last retry was.", "what", "outcome")

// Notices counts messages to operators. It implements notice.Metrics.
type Notices struct{}

// CountNotice implements notice.Metrics.
func (Notices) CountNotice(what string, sent bool) {
	outcome := "failed"
	if sent {
		outcome = "sent"
	}
	notices.WithLabelValues(what, outcome).Inc()
}
