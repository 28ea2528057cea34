package sqlite

import (
	"errors"
	"testing"
)

// TestOneBadOpFailsNoOther: an op that fails undoes itself alone; the others of
// its group are committed.
func TestOneBadOpFailsNoOther(t *testing.T) {
	s, _ := living(t)
	bad := errors.New("bad")
	began, goOn := make(chan struct{}), make(chan struct{})
	results := map[string]chan error{"first": make(chan error, 1), "bad": make(chan error, 1), "good": make(chan error, 1)}
	start := func(name string, write func(*group) error) {
		go func() { results[name] <- s.writer.do(t.Context(), &op{write: write}) }()
	}
	start("first", func(*group) error { close(began); <-goOn; return nil })
	<-began
	start("bad", func(*group) error { return bad })
	start("good", func(g *group) error { return g.exec("INSERT INTO secrets (name, sealed) VALUES ('good', x'00')") })
	until(t, "were both waiting", func() bool { return s.writer.batch.Len() == 2 })
	close(goOn)
	for name, want := range map[string]error{"first": nil, "bad": bad, "good": nil} {
		if err := <-results[name]; !errors.Is(err, want) {
			t.Errorf("the %s op got %v, want %v", name, err, want)
		}
	}
}

// TestEveryCommitIsSynced: the writer's connection fsyncs the log with each commit.
func TestEveryCommitIsSynced(t *testing.T) {
	s, _ := living(t)
	var level int
	must(t, s.writer.do(t.Context(), &op{write: func(g *group) error {
		return g.w.conn.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&level)
	}}))
	if level != 2 {
		t.Errorf("synchronous is %d, want 2, which is FULL", level)
	}
}
