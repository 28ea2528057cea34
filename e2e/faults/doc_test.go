// Package faults_test breaks what is under a running Caddy and holds the ledger
// of what was promised against what is left.
//
// Every test runs few rounds by default. The numbers of rounds are flags:
//
//	go test ./e2e/faults -run TestKill -kills 1000 -timeout 3h -v
//	go test ./e2e/faults -run TestPowerCut -cuts 200 -timeout 1h -v
//	go test ./e2e/faults -run TestPostgres -kills 1000 -cuts 200 -timeout 3h -v
//	go test ./e2e/faults -run TestAppAway -away 24h -timeout 1h -v
//	go test ./e2e/faults -run TestReceiverAway -queued 100000 -away 8h -timeout 1h -v
//	go test ./e2e/faults -run TestReload -reloads 100 -timeout 1h -v
//
// What needs root, and ext4, tmpfs or strace with it, says so where it is
// skipped.
package faults_test

import (
	"flag"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook" // so that a change of it runs these tests again
)

var (
	kills   = flag.Int("kills", 0, "how often TestKill and TestPostgres kill Caddy, each; a few times unless given")
	cuts    = flag.Int("cuts", 0, "how often TestPowerCut and TestPostgres cut the power, each; a few times unless given")
	appAway = flag.Duration("away", 5*time.Minute, "how long the app of TestAppAway and the receiver of TestReceiverAway are away, in fake time")
	queued  = flag.Int("queued", 0, "how many deliveries wait for the receiver of TestReceiverAway; a few hundred unless given")
	reloads = flag.Int("reloads", 0, "how often TestReload reloads; a few times unless given")
)

// count returns the number that was asked for, or the few that a test does
// without being asked.
func count(asked *int, few int) int {
	if *asked > 0 {
		return *asked
	}
	return few
}
