// Package faults_test breaks what is under a running Caddy and holds the ledger
// of what was promised against what is left.
//
// Every test runs few rounds by default. The numbers of rounds are flags:
//
//	go test ./e2e/faults -run TestKill -kills 1000 -timeout 3h -v
//	go test ./e2e/faults -run TestPowerCut -cuts 200 -timeout 1h -v
//	go test ./e2e/faults -run TestPostgres -kills 1000 -cuts 200 -timeout 3h -v
//	go test ./e2e/faults -run TestReload -reloads 100 -timeout 1h -v
//
// What needs root, and ext4, tmpfs or strace with it, says so where it is
// skipped.
package faults_test

import (
	"flag"

	_ "github.com/caddy-replicate/replicate-webhook" // so that a change of it runs these tests again
)

var (
	kills   = flag.Int("kills", 20, "how often TestKill kills Caddy; TestPostgres a quarter as often")
	cuts    = flag.Int("cuts", 5, "how often TestPowerCut cuts the power; TestPostgres a fifth as often")
	reloads = flag.Int("reloads", 10, "how often TestReload reloads")
)
