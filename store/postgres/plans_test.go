package postgres

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// hot are the statements whose number grows with the load, and those of searches.
var hot = map[string]string{
	"takeRows": takeRows, "freeRows": freeRows, "findEntries": findEntries, "findMarks": findMarks, "insertEntries": insertEntries, "purgeRows": purgeRows,
	"readyEndpoints": readyEndpoints, "takeReady": takeReady, "readTaken": readTaken,
	"lockPredictions": lockPredictions, "lockDeliveries": lockDeliveries,
	"updatePredictions": updatePredictions, "insertPredictions": insertPredictions, "deletePredictions": deletePredictions,
	"updateDeliveries": updateDeliveries, "insertDeliveries": insertDeliveries, "insertPayloads": insertPayloads, "insertAttempts": insertAttempts,
	"readPredictions": readPredictions, "orphanDeliveries": orphanDeliveries, "orphanPolls": orphanPolls, "readOrphans": readOrphans, "takeOrphans": takeOrphans,
	"lockEvents": lockEvents, "readEvent": readEvent, "insertEvents": insertEvents, "updateEvents": updateEvents, "expireEntries": expireEntries,
	"findEvents": findEvents, "findEnded": findEnded, "dropHeads": dropHeads, "dropBody": dropBody, "insertCounts": insertCounts, "findExpired": findExpired,
	"findByNumber": findByNumber, "findOfClient": findOfClient, "findOfOrigin": findOfOrigin, "findByPredictions": findByPredictions,
	"findClients": findClients, "findOrigins": findOrigins,
	"byKey": "SELECT " + predictionColumns + " FROM webhook_predictions p WHERE p.key = $1", "byToken": "SELECT " + predictionColumns + " FROM webhook_predictions p WHERE p.token = $1",
}

var parameter = regexp.MustCompile(`\$(\d+)`)

// plans returns the plans of the hot statements, as a connection would keep them.
func plans(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	found := make(map[string]string)
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, settings); err != nil {
		t.Fatal(err)
	}
	for name, sql := range hot {
		last := 0
		for _, m := range parameter.FindAllStringSubmatch(sql, -1) {
			var n int
			_, _ = fmt.Sscan(m[1], &n)
			last = max(last, n)
		}
		arguments := ""
		if last > 0 {
			arguments = "(" + strings.TrimSuffix(strings.Repeat("NULL,", last), ",") + ")"
		}
		if _, err := tx.Exec(ctx, "PREPARE p AS "+sql); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rows, err := tx.Query(ctx, "EXPLAIN (COSTS OFF) EXECUTE p"+arguments, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found[name] = strings.Join(lines, "\n")
		if _, err := tx.Exec(ctx, "DEALLOCATE p"); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// wholeTable matches what reads all of a table that grows.
var wholeTable = regexp.MustCompile(`Seq Scan on webhook_(dedup|predictions|deliveries|payloads|attempts|inbound|inbox_counts)|Hash Join|Merge Join|Hash Left Join|Merge Left Join`)

// TestPlans: the plans of all statements of hot paths are the same for empty
// tables and for a million rows, whether or not the database has looked at them,
// and none reads a table as a whole. So one that was made for an empty table is
// right for as long as a connection keeps it.
func TestPlans(t *testing.T) {
	server := pgtest.Start(t, "fsync=off", "autovacuum=off", "max_wal_size=4GB", "maintenance_work_mem=256MB", "shared_buffers=512MB")
	dsn := server.Fresh(t)
	s := quiet(t, dsn)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, table := range []string{"predictions", "deliveries", "payloads", "dedup"} {
		exec("ALTER TABLE webhook_" + table + " SET UNLOGGED") // of no matter to plans, and quicker
	}
	first := plans(t, conn)
	for name, plan := range first {
		if found := wholeTable.FindString(plan); found != "" {
			t.Errorf("%s has a %s:\n%s", name, found, plan)
		}
		for _, step := range unbounded(plan) {
			t.Errorf("%s reads all of an index: %s\n%s", name, step, plan)
		}
	}
	rows := 0
	for _, n := range []int{0, 1000, 1_000_000} {
		from := rows + 1
		rows = n
		exec(fmt.Sprintf(`INSERT INTO webhook_predictions SELECT i, int8send(i), '', 'p', '', '', 7, CASE WHEN i %% 100 = 0 THEN 'x'::bytea ELSE '' END, NULL, NULL, '', false, NULL, 0, 1, 0, 7
			FROM generate_series(%d::bigint, %d) i`, from, n))
		exec(fmt.Sprintf(`INSERT INTO webhook_deliveries SELECT i, i, i, 2, false, CASE WHEN i %% 25 = 0 THEN 0 ELSE 1 END, 0, i, 0, int8send(i %% 64), false, 0, 0
			FROM generate_series(%d::bigint, %d) i`, from, n))
		exec(fmt.Sprintf("INSERT INTO webhook_payloads SELECT i, '' FROM generate_series(%d::bigint, %d) i", from, n))
		exec(fmt.Sprintf("INSERT INTO webhook_dedup SELECT lpad(to_hex(i), 32, '0')::uuid, 'default', i, i FROM generate_series(%d::bigint, %d) i", from, n))
		for _, state := range []string{"before ANALYZE", "after ANALYZE"} {
			for name, plan := range plans(t, conn) {
				if plan != first[name] {
					t.Errorf("%s at %d rows, %s:\n%s\nthe plan was\n%s", name, n, state, plan, first[name])
				}
			}
			exec("VACUUM ANALYZE")
		}
	}
	// It takes as long as what is taken, not as what is there.
	var endpoints [][]byte
	var slots []int32
	var due []int64
	for i := range 64 {
		endpoints, slots, due = append(endpoints, []byte{0, 0, 0, 0, 0, 0, 0, byte(i)}), append(slots, 4), append(due, int64(rows))
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, settings); err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(must(tx.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) "+takeReady, endpoints, slots, due, s.nodes.id.Load(), int64(1))), pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "Buffers:") })
	var hits, read int
	for _, field := range strings.Fields(lines[at]) {
		_, _ = fmt.Sscanf(field, "hit=%d", &hits)
		_, _ = fmt.Sscanf(field, "read=%d", &read)
	}
	if hits+read == 0 || hits+read > 256*60 {
		t.Errorf("taking 256 deliveries read %d pages:\n%s", hits+read, strings.Join(lines, "\n"))
	}
}

func must(rows pgx.Rows, err error) pgx.Rows {
	if err != nil {
		panic(err)
	}
	return rows
}

// unbounded returns the index scans of a plan that have no condition, and no limit
// above them.
func unbounded(plan string) (steps []string) {
	lines := strings.Split(plan, "\n")
	for i, line := range lines {
		if !strings.Contains(line, "Index Scan using") && !strings.Contains(line, "Index Only Scan using") || strings.Contains(line, "webhook_nodes") || strings.Contains(line, "webhook_claims") {
			continue
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		bounded := i > 0 && strings.Contains(lines[i-1], "Limit")
		for _, below := range lines[i+1:] {
			if strings.Contains(below, "->") || len(below)-len(strings.TrimLeft(below, " ")) <= indent {
				break
			}
			bounded = bounded || strings.Contains(below, "Index Cond")
		}
		if !bounded {
			steps = append(steps, strings.TrimSpace(line))
		}
	}
	return steps
}
