package prediction

import "github.com/caddy-replicate/replicate-webhook/internal/ecmajson"

// Scanner reads the id, status and version of a prediction object of any size
// while it streams by, see [ecmajson.MemberScanner].
type Scanner struct{ *ecmajson.MemberScanner }

// NewScanner returns a scanner before the beginning of an object.
func NewScanner() Scanner {
	return Scanner{ecmajson.NewMemberScanner("id", "status", "version")}
}

// ID returns the prediction's id as far as it has streamed by.
func (s Scanner) ID() string { return s.Value(0) }

// Status returns the prediction's status as far as it has streamed by.
func (s Scanner) Status() string { return s.Value(1) }

// Version returns the model's version as far as it has streamed by.
func (s Scanner) Version() string { return s.Value(2) }
