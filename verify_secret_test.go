package replicatewebhook_test

import (
	"net/http"
	"os"
	"testing"
)

// TestSecretFileIsReadAgainWithoutReload: what the sender signs with may change
// under a running server. A file that can't be used changes nothing, and the log
// says so.
func TestSecretFileIsReadAgainWithoutReload(t *testing.T) {
	path := t.TempDir() + "/secret"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A plain secret, so that the scheme of whsec_ secrets is learnt as well.
	write(shared + "\n")
	e := newEdge(t, "secret {file."+path+"}")
	e.accepted(replicate(shared, guideBody("p1", "prediction.completed")))
	e.refused(standard(whsec, "m1", guideBody("p2", "prediction.completed")), http.StatusUnauthorized)

	write(whsec + "\n")
	e.Logs.Wait(t, "info", "a secret has changed in its file", "secret 1 of replicate_webhook")
	e.accepted(standard(whsec, "m2", guideBody("p3", "prediction.completed")))
	e.refused(replicate(shared, guideBody("p4", "prediction.completed")), http.StatusUnauthorized)

	write("too short")
	e.Logs.Wait(t, "warn", "a secret can't be taken from its file", "shorter than")
	e.accepted(standard(whsec, "m5", guideBody("p5", "prediction.completed")))
}
