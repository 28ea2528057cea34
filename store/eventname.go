package store

import (
	"fmt"
	"strings"
)

// ReadEvent reads an event's name as [ParseEvent] does. The error lists the names
// that there are, and the one that was probably meant.
func ReadEvent(name string) (EventSet, error) {
	if e := ParseEvent(name); e != 0 {
		return e, nil
	}
	const known = "use started, completed or failed, with or without prediction. before them"
	if strings.Contains(name, ",") {
		return 0, fmt.Errorf("%.64q is not an event but several: give each one by itself; %s", name, known)
	}
	if meant := meantEvent(name); meant != 0 {
		return 0, fmt.Errorf("%.64q is not an event, did you mean %s? %s", name, strings.TrimPrefix(meant.Name(), "prediction."), known)
	}
	return 0, fmt.Errorf("%.64q is not an event: %s", name, known)
}

// meantEvent returns the event that a wrong name was probably meant to be, 0 when
// there is no telling.
func meantEvent(name string) EventSet {
	name = strings.ToLower(strings.Trim(name, " \t\r\n\"'*"))
	if i := strings.LastIndexAny(name, "./:_-"); i >= 0 {
		name = name[i+1:]
	}
	if e := ParseEvent(name); e != 0 {
		return e
	}
	// Statuses, names of other services and other forms of the verbs.
	for _, k := range []struct {
		event EventSet
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
	for _, e := range []EventSet{Started, Completed, Failed} {
		if similar(name, strings.TrimPrefix(e.Name(), "prediction.")) {
			return e
		}
	}
	return 0
}

// similar reports whether a and b are equal but for one letter that is missing,
// too many or another one, or two letters that have changed places.
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
