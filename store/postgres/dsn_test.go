package postgres

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAmbiguousDSNIsRefusedWithoutQuoting: a character of the password that has
// a meaning of its own is refused, before anything is looked up, and the message
// names the characters and no part of the dsn.
func TestAmbiguousDSNIsRefusedWithoutQuoting(t *testing.T) {
	const before, after = "hunter", "trustno1"
	check := func(t *testing.T, dsn, want string) {
		t.Helper()
		_, err := parseDSN(dsn)
		if err == nil {
			t.Errorf("accepted %s", dsn)
			return
		}
		for _, part := range []string{before, after, "backend"} {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%s: the message quotes it: %v", dsn, err)
			}
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want …%s…", dsn, err, want)
		}
	}
	for _, c := range []string{"@", "/", "#", "?", ":", "%", "[", "]", " ", "\t", "\n", "\x00", "\"", "'", "<", ">", "\\", "^", "`", "{", "|", "}", "%zz", "%2", "é", "@/", "/@", "?a=b@", "@x:"} {
		check(t, "postgres://backend:"+before+c+after+"@db.internal:5432/hooks?sslmode=disable", "percent-encode")
		check(t, "postgresql://"+before+c+after+":x@db.internal/hooks", "percent-encode")
	}
	for dsn, want := range map[string]string{
		"postgres://backend:hunter trustno1@db/hooks":             "percent-encode",
		"postgres://backend@db/hunter/trustno1":                   "percent-encode",
		"postgres://backend:hunter":                               "port must be a number",
		"postgres://backend:x@db:trustno1/hooks":                  "port must be a number",
		"postgres://backend@db/hooks?password=hunter&trustno1=4":  "is not known",
		"postgres://backend@db/hooks?password=hunter&trustno1":    "percent-encode",
		"postgres://backend:x@db/hooks?password=hunter=trustno1":  "percent-encode",
		"host=db password=hunter trustno1":                        "single quotes",
		"host=db password=hunter trustno1 user=backend":           "single quotes",
		"host=db password=hunter trustno1=5":                      "is not known",
		"host=db password='hunter'trustno1":                       "single quotes",
		"host=db password='hunter trustno1":                       "single quotes",
		"host=db password=hunter'trustno1":                        "single quotes",
		`host=db password="hunter trustno1"`:                      "single quotes",
		"host=hunter@trustno1 user=backend":                       "host is not a name",
		"host=hunter:trustno1 user=backend":                       "host is not a name",
		"DATABASE_URL=postgres://backend:hunter@db/trustno1":      "must begin with postgres://",
		`"postgres://backend:hunter@db/trustno1"`:                 "must begin with postgres://",
		"jdbc:postgresql://db/hooks?user=backend&password=hunter": "must begin with postgres://",
		"mysql://backend:hunter@db/trustno1?a=b":                  "must begin with postgres://",
		"hunter":                                                  "must begin with postgres://",
	} {
		check(t, dsn, want)
	}
}

// TestDSN: what is written as it should be means what it says.
func TestDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://backend:p%40ss%2Fw%3Ard%25%20%C3%A9@db.internal:5433/hooks?sslmode=disable": "backend p@ss/w:rd% é db.internal 5433 hooks",
		"postgresql://backend:a+b!$*()-._~;,=&@[::1]/hooks?sslmode=disable":                     "backend a+b!$*()-._~;,=& ::1 5432 hooks",
		"postgres://backend@db/":                                            "backend  db 5432 ",
		"postgres://%2Fvar%2Frun%2Fpostgresql/hooks?user=backend":           "backend  /var/run/postgresql 5432 hooks",
		"postgres:///hooks?host=/var/run/postgresql&user=backend":           "backend  /var/run/postgresql 5432 hooks",
		"postgres://backend:x@a:5433,b:5434/hooks":                          "backend x a 5433 hooks",
		"postgres://backend:x@db/hooks?application_name=a%20b&TimeZone=UTC": "backend x db 5432 hooks",
		"\n postgres://backend:x@db/hooks\n":                                "backend x db 5432 hooks",
		`host=db port=5433 dbname=hooks user=backend password='p \'w\\'`:    `backend p 'w\ db 5433 hooks`,
		"host = db dbname= hooks user=backend password=p@ss=1/2":            "backend p@ss=1/2 db 5432 hooks",
	} {
		conf, err := parseDSN(dsn)
		if err != nil {
			t.Errorf("%q: %v", dsn, err)
			continue
		}
		got := fmt.Sprint(conf.User, " ", conf.Password, " ", conf.Host, " ", conf.Port, " ", conf.Database)
		if got != want {
			t.Errorf("%q means %q, want %q", dsn, got, want)
		}
	}
}

// TestDSNParameters: a parameter that is wrong has a sentence of its own.
func TestDSNParameters(t *testing.T) {
	dir := t.TempDir()
	notPEM := filepath.Join(dir, "not.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"sslmode=on":                      "sslmode must be one of disable,",
		"ssl=yes":                         "sslmode must be one of disable,",
		"ssl_mode=require":                "parameter sslmode is misspelled",
		"SSLMODE=require":                 "parameter sslmode is misspelled",
		"sslmod=require":                  "parameter sslmode is misspelled",
		"sslmode=require&sslmode=disable": "parameter sslmode is misspelled or given twice",
		"sslmode=verify-full&sslrootcert=" + filepath.Join(dir, "none.pem"): "sslrootcert can't be read: " + filepath.Join(dir, "none.pem"),
		"sslmode=verify-full&sslrootcert=" + notPEM:                         "sslrootcert is not a PEM file",
		"sslcert=" + notPEM:                          "sslcert is not a PEM file",
		"sslkey=" + filepath.Join(dir, "none.key"):   "sslkey can't be read",
		"passfile=" + filepath.Join(dir, "passfile"): "passfile can't be read",
		"connect_timeout=soon":                       "connect_timeout must be a whole number",
		"connect_timeout=-1":                         "connect_timeout must be a whole number",
		"connect_timeout=5s":                         "connect_timeout must be a whole number",
		"port=54321x":                                "port must be a number",
		"port=0":                                     "port must be a number",
		"port=1,2,3":                                 "3 ports for 1 hosts",
		"target_session_attrs=read-only":             "target_session_attrs must be one of",
		"target_session_attrs=master":                "target_session_attrs must be one of",
		"channel_binding=yes":                        "channel_binding must be one of",
		"max_protocol_version=4":                     "max_protocol_version must be one of",
		"require_auth=magic":                         "can't be used",
		"default_query_exec_mode=exec":               "default_query_exec_mode is an option of a driver",
		"default_query_exec_mode=simple_protocol":    "default_query_exec_mode is an option of a driver",
		"default_query_exec_mode=cache_describe":     "default_query_exec_mode is an option of a driver",
		"statement_cache_capacity=0":                 "statement_cache_capacity is an option of a driver",
		"pool_max_conns=5":                           "set max_conns",
		"pool_min_conns=5":                           "set max_conns",
		"pgbouncer=true":                             "poolers are noticed",
		"connection_limit=1":                         "set max_conns",
		"schema=hooks":                               "write search_path",
		"currentSchema=hooks":                        "write search_path",
		"nonsense=1":                                 "is not known",
	}
	for _, q := range slices.Sorted(maps.Keys(cases)) {
		for _, dsn := range []string{"postgres://backend:hunter2@db/hooks?" + q, "host=db user=backend password=hunter2 " + strings.ReplaceAll(q, "&", " ")} {
			if _, err := parseDSN(dsn); err == nil || !strings.Contains(err.Error(), cases[q]) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v, want …%s…", dsn, err, cases[q])
			}
		}
	}
	t.Setenv("PGSSLMODE", "sometimes")
	if _, err := parseDSN("postgres://backend:hunter2@db/hooks"); err == nil || !strings.Contains(err.Error(), "environment variable PGSSLMODE: sslmode must be one of") {
		t.Error(err)
	}
	if _, err := parseDSN("postgres://backend:hunter2@db/hooks?sslmode=disable"); err != nil {
		t.Error(err)
	}
}
