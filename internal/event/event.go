// Package event defines the events in the life of a prediction: their names, and
// which of them a prediction's status stands for.
package event

import (
	"fmt"
	"strings"
)

// Set is a set of events. Completed and Failed are the terminal ones, of which a
// prediction has exactly one. Stores keep the number, of 15 bits.
type Set uint16

// The events of the webhook guide.
const (
	Started Set = 1 << iota
	Completed
	Failed

	Terminal = Completed | Failed
	All      = Started | Terminal
)

// prefix begins the name of every event.
const prefix = "prediction."

// Has reports whether the sets share an event.
func (s Set) Has(o Set) bool { return s&o != 0 }

// Name returns the event's name in payloads and headers. It is empty unless the
// set is of one event.
func (s Set) Name() string {
	switch s {
	case Started:
		return prefix + "started"
	case Completed:
		return prefix + "completed"
	case Failed:
		return prefix + "failed"
	}
	return ""
}

// ForStatus returns the event that a prediction has come to with its status. It
// is 0 for "starting", with which a prediction is created and may be queued for
// long: its client is told that it started when it does. It is 0, too, for a
// status that the API is not known to have.
func ForStatus(status string) Set {
	switch status {
	case "processing":
		return Started
	case "succeeded":
		return Completed
	case "failed", "canceled", "aborted":
		return Failed
	}
	return 0
}

// ForWebhookStatus returns the event that a webhook announces whose body is the
// prediction itself. It is that of ForStatus but for "starting": the API sends
// such a webhook for its event "start" alone, so that it is Started.
func ForWebhookStatus(status string) Set {
	if status == "starting" {
		return Started
	}
	return ForStatus(status)
}

// IsTerminal reports whether no other status can follow the status.
func IsTerminal(status string) bool { return ForStatus(status).Has(Terminal) }

// Parse returns the event of a name, with or without "prediction." before it.
// The error lists the names that there are, and the one that was probably meant.
func Parse(name string) (Set, error) {
	if e := byName(name); e != 0 {
		return e, nil
	}
	const known = "use started, completed or failed, with or without prediction. before them"
	if strings.Contains(name, ",") {
		return 0, fmt.Errorf("%.64q is not an event but several: give each one by itself; %s", name, known)
	}
	if meant := guess(name); meant != 0 {
		return 0, fmt.Errorf("%.64q is not an event, did you mean %s? %s", name, strings.TrimPrefix(meant.Name(), prefix), known)
	}
	return 0, fmt.Errorf("%.64q is not an event: %s", name, known)
}

// byName returns the event of a name, 0 for a name that no event has.
func byName(name string) Set {
	for _, e := range []Set{Started, Completed, Failed} {
		if strings.TrimPrefix(name, prefix) == strings.TrimPrefix(e.Name(), prefix) {
			return e
		}
	}
	return 0
}

// guess returns the event that a wrong name was probably meant to be, 0 when no
// event is likely.
func guess(name string) Set {
	name = strings.ToLower(strings.Trim(name, " \t\r\n\"'*"))
	if i := strings.LastIndexAny(name, "./:_-"); i >= 0 {
		name = name[i+1:]
	}
	if e := byName(name); e != 0 {
		return e
	}
	// Statuses, names of other services and other forms of the verbs.
	for _, k := range []struct {
		event Set
		stems []string
	}{
		{Started, []string{"start", "begin", "began", "begun", "process", "creat", "running", "queued"}},
		{Failed, []string{"fail", "error", "cancel", "abort"}},
		{Completed, []string{"complet", "succe", "finish", "done", "end"}},
	} {
		for _, stem := range k.stems {
			if strings.HasPrefix(name, stem) {
				return k.event
			}
		}
	}
	for _, e := range []Set{Started, Completed, Failed} {
		if similar(name, strings.TrimPrefix(e.Name(), prefix)) {
			return e
		}
	}
	return 0
}

// similar reports whether a and b are equal but for one letter that is missing,
// added or different, or two neighboring letters that are swapped.
func similar(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 0:
		return i < len(a) && (a[i+1:] == b[i+1:] || i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:])
	case 1:
		return a[i:] == b[i+1:]
	}
	return false
}
