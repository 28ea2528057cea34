package sqlite

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// TestSearchReadsByIndex: no query of a search reads all of a table or of an index.
func TestSearchReadsByIndex(t *testing.T) {
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "webhook.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, query := range map[string]string{
		"findByNumber": findByNumber, "findOfClient": findOfClient, "findOfOrigin": findOfOrigin,
		"findByPredictions": strings.Replace(findByPredictions, "%", "?, ?", 1), "findClients": findClients, "findOrigins": findOrigins,
	} {
		args := make([]any, strings.Count(query, "?"))
		rows, err := s.db.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		searches := 0
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			switch {
			case strings.HasPrefix(step, "SEARCH "):
				searches++
			case strings.HasPrefix(step, "SCAN ") && step != "SCAN v" && step != "SCAN CONSTANT ROW":
				t.Errorf("%s: %s", name, step)
			case strings.Contains(step, "TEMP B-TREE") && name != "findByPredictions":
				t.Errorf("%s sorts: %s", name, step)
			}
		}
		if err := rows.Err(); err != nil || searches == 0 {
			t.Errorf("%s: %d searches, %v", name, searches, err)
		}
	}
}
