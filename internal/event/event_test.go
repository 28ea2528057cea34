package event

import (
	"strings"
	"testing"
)

// TestUnknownEventsNameTheKnownOnes holds that a name that never comes is refused
// by an error that lists those that do, and the one that was probably meant.
func TestUnknownEventsNameTheKnownOnes(t *testing.T) {
	for name, meant := range map[string]string{
		"start": "started", "prediction.start": "started", "prediction.starting": "started", "processing": "started", "Started": "started",
		"strated": "started", "startd": "started", "predictions.started": "started", "prediction_started": "started", "prediction.created": "started",
		"prediction.succeeded": "completed", "succeeded": "completed", "success": "completed", "COMPLETED": "completed", "complete": "completed",
		"completed ": "completed", " completed": "completed", "\"completed\"": "completed", "Prediction.Completed": "completed", "compelted": "completed",
		"prediction/completed": "completed", "finished": "completed", "done": "completed",
		"failure": "failed", "prediction.canceled": "failed", "cancelled": "failed", "aborted": "failed", "errored": "failed", "faild": "failed", "prediction.Failed": "failed",
		"completed,failed": "several", "prediction.completed,prediction.failed": "several",
		"output": "", "logs": "", "all": "", "*": "", "": "", "prediction.": "", "x": "",
	} {
		e, err := Parse(name)
		if err == nil {
			t.Errorf("%q is read as %s", name, e.Name())
			continue
		}
		for _, known := range []string{"started", "completed", "failed"} {
			if !strings.Contains(err.Error(), known) {
				t.Errorf("%q: the error does not name %s: %v", name, known, err)
			}
		}
		switch _, after, asks := strings.Cut(err.Error(), "did you mean "); {
		case meant == "several":
			if !strings.Contains(err.Error(), "each one by itself") {
				t.Errorf("%q: %v", name, err)
			}
		case meant == "" && asks:
			t.Errorf("%q: %v", name, err)
		case meant != "" && !strings.HasPrefix(after, meant+"?"):
			t.Errorf("%q: %v, want %s to be suggested", name, err, meant)
		}
	}
	for name, want := range map[string]Set{"started": Started, "prediction.completed": Completed, "failed": Failed} {
		if e, err := Parse(name); err != nil || e != want {
			t.Errorf("%q: %v, %v", name, e, err)
		}
	}
}
