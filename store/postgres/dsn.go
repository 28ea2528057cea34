package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// A dsn holds a password. Where it is written wrong, no part of it is known to
// be something else: what follows an unescaped @ looks like a host, and what
// follows a blank looks like a parameter. So a dsn is read strictly before it is
// used, and no error of this file quotes anything that was read from it but the
// names of known parameters.

var (
	errScheme = errors.New("dsn must begin with postgres:// or postgresql://, without quotes or anything else before it, or be written like host=… dbname=… user=… password=…")
	// errEncode is the one message about characters that end a part of a
	// URL.
	errEncode = errors.New("dsn can't be read without guessing: in a URL, percent-encode these characters of user, password, database and parameters: " +
		"@ is %40, / is %2F, : is %3A, # is %23, ? is %3F, % is %25, [ is %5B, ] is %5D, & is %26, = is %3D, blank is %20, and likewise quotes, < > \\ ^ ` { | } and what is not ASCII")
	errQuote = errors.New(`dsn can't be read without guessing: write name=value pairs, and put a value with blanks or quotes into single quotes, with \' for a quote and \\ for a backslash`)
)

// parseDSN reads a dsn.
func parseDSN(dsn string) (*pgx.ConnConfig, error) {
	dsn = strings.TrimSpace(dsn)
	var settings map[string]string
	var err error
	switch {
	case strings.HasPrefix(dsn, "postgres://"), strings.HasPrefix(dsn, "postgresql://"):
		settings, err = readURL(dsn)
	case dsn == "" || strings.ContainsAny(dsn[:1], "'\"`") || !strings.Contains(dsn, "=") || beforeURL.MatchString(dsn):
		err = errScheme
	default:
		settings, err = readPairs(dsn)
	}
	if err != nil {
		return nil, err
	}
	if err := checkSettings(settings); err != nil {
		return nil, fmt.Errorf("dsn: %w", err)
	}
	conf, err := pgx.ParseConfig(dsn)
	if err != nil {
		// Its text may repeat parts of the dsn.
		return nil, errors.New("dsn, a file that it names, or one of the environment variables whose names begin with PG can't be used")
	}
	return conf, nil
}

// beforeURL matches a URL that something else precedes, such as the name of a
// variable, and the URL of another database.
var beforeURL = regexp.MustCompile(`^\s*[A-Za-z_][A-Za-z0-9_+:.-]*\s*(=\s*["']?\s*[A-Za-z0-9+:]+)?://`)

// readURL returns the settings of a URL. Characters that have a meaning in one
// must not stand where they could be meant literally.
func readURL(dsn string) (map[string]string, error) {
	_, rest, _ := strings.Cut(dsn, "://")
	for i, r := range rest {
		switch {
		case r <= ' ' || r > unicode.MaxASCII || r == 0x7f, strings.ContainsRune("\"'<>\\^`{|}#", r):
			return nil, errEncode
		case r == '%':
			if _, err := strconv.ParseUint(rest[min(i+1, len(rest)):min(i+3, len(rest))], 16, 8); err != nil || i+3 > len(rest) {
				return nil, errEncode
			}
		}
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, database, _ := strings.Cut(rest, "/")
	userinfo, hosts, found := strings.Cut(authority, "@")
	if !found {
		userinfo, hosts = "", authority
	}
	user, password, _ := strings.Cut(userinfo, ":")
	if strings.ContainsAny(hosts+database+query, "@") || strings.ContainsAny(user+password, ":[]") || strings.ContainsAny(database, "/:[]") || strings.ContainsAny(query, "?") {
		return nil, errEncode
	}
	settings := make(map[string]string)
	put := func(name, value string) error {
		value, err := url.PathUnescape(value)
		if err != nil || strings.ContainsRune(value, 0) {
			return errEncode
		}
		if value != "" {
			settings[name] = value
		}
		return nil
	}
	for name, value := range map[string]string{"user": user, "password": password, "database": database} {
		if err := put(name, value); err != nil {
			return nil, err
		}
	}
	if err := readHosts(hosts, settings); err != nil {
		return nil, err
	}
	if query == "" {
		return settings, nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(value, "=") {
			return nil, errEncode
		}
		if name, ok = known(name, settings); !ok {
			return nil, errUnknown(name)
		}
		if err := put(name, value); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// readHosts splits the hosts of a URL and their ports.
func readHosts(list string, settings map[string]string) error {
	if list == "" {
		return nil
	}
	var hosts, ports []string
	for one := range strings.SplitSeq(list, ",") {
		host, port := one, ""
		if at := strings.LastIndexByte(one, ':'); at > strings.LastIndexByte(one, ']') {
			host, port = one[:at], one[at+1:]
		}
		host, err := url.PathUnescape(host)
		if err != nil {
			return errEncode
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	settings["host"] = strings.Join(hosts, ",")
	if all := strings.Join(ports, ","); strings.Trim(all, ",") != "" {
		settings["port"] = all
	}
	return nil
}

// readPairs returns the settings of name=value pairs.
func readPairs(dsn string) (map[string]string, error) {
	settings := make(map[string]string)
	for rest := dsn; rest != ""; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, errQuote
		}
		var value string
		if value, rest, ok = pairValue(strings.TrimLeft(after, blanks)); !ok {
			return nil, errQuote
		}
		name = strings.Trim(name, blanks)
		if strings.ContainsAny(name, blanks) {
			return nil, errQuote
		}
		if name, ok = known(name, settings); !ok {
			return nil, errUnknown(name)
		}
		settings[name] = value
	}
	return settings, nil
}

const blanks = " \t\n\r\v\f"

// pairValue reads one value, and returns what follows it.
func pairValue(s string) (value, rest string, ok bool) {
	var text strings.Builder
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			text.WriteByte(s[i])
		case quoted && c == '\'':
			rest = s[i+1:]
			trimmed := strings.TrimLeft(rest, blanks)
			return text.String(), trimmed, rest == "" || len(trimmed) < len(rest)
		case c == 0, c == '\'', c == '"' && i == 0 && !quoted:
			return "", "", false
		case !quoted && strings.IndexByte(blanks, c) >= 0:
			return text.String(), strings.TrimLeft(s[i:], blanks), true
		default:
			text.WriteByte(c)
		}
	}
	return text.String(), "", !quoted
}

// parameters are the names that a dsn may use.
var parameters = []string{
	"host", "port", "database", "user", "password", "passfile", "connect_timeout", "service", "servicefile",
	"sslmode", "sslkey", "sslcert", "sslrootcert", "sslnegotiation", "sslpassword", "sslsni", "krbspn", "krbsrvname",
	"target_session_attrs", "min_protocol_version", "max_protocol_version", "channel_binding", "require_auth",
	// Settings of the server, which a pooler may refuse.
	"application_name", "search_path", "options", "timezone", "client_encoding", "datestyle", "role", "synchronous_commit", "default_transaction_read_only",
	"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout",
	"tcp_user_timeout", "work_mem", "log_statement",
}

// aliases are other spellings of the same.
var aliases = map[string]string{"dbname": "database", "ssl": "sslmode"}

// foreign are parameters of other drivers, with what is to be said about them.
var foreign = map[string]string{
	"default_query_exec_mode":    "is an option of a driver, and the store decides that itself: leave it out",
	"statement_cache_capacity":   "is an option of a driver, and the store decides that itself: leave it out",
	"description_cache_capacity": "is an option of a driver, and the store decides that itself: leave it out",
	"pgbouncer":                  "is an option of another driver: leave it out, poolers are noticed",
	"prepareThreshold":           "is an option of another driver: leave it out, poolers are noticed",
	"prepared_statements":        "is an option of another driver: leave it out, poolers are noticed",
	"connection_limit":           "is an option of another driver: leave it out and set max_conns of store postgres",
	"pool_max_conns":             "is an option of a driver: leave it out and set max_conns of store postgres",
	"pool_timeout":               "is an option of another driver: leave it out",
	"schema":                     "is an option of another driver: write search_path",
	"currentSchema":              "is an option of another driver: write search_path",
	"ApplicationName":            "is an option of another driver: write application_name",
	"username":                   "is an option of another driver: write user",
	"hostaddr":                   "is not supported: write host",
	"keepalives":                 "is not supported: leave it out, keep-alives are on",
	"sslcrl":                     "is not supported: leave it out",
	"gssencmode":                 "is not supported: leave it out",
}

// known returns a parameter's canonical name and reports whether a dsn may use
// it there. Where it may not, the name is empty unless it is safe to repeat.
func known(name string, settings map[string]string) (string, bool) {
	if canonical, ok := aliases[name]; ok {
		name = canonical
	}
	if _, ok := foreign[name]; ok {
		return name, false
	}
	for _, p := range parameters {
		switch {
		case !strings.EqualFold(p, name):
		case p != name && p != "timezone" && p != "datestyle":
			return p, false
		default:
			_, twice := settings[p]
			return p, !twice
		}
	}
	if strings.HasPrefix(name, "pool_") && len(name) < 40 {
		return "pool_max_conns", false
	}
	for _, p := range parameters {
		if strings.ReplaceAll(strings.ToLower(name), "_", "") == strings.ReplaceAll(p, "_", "") || len(p) > 5 && oneEdit(name, p) {
			return p, false
		}
	}
	return "", false
}

// errUnknown says what is wrong with a parameter.
func errUnknown(name string) error {
	if why, ok := foreign[name]; ok {
		return fmt.Errorf("dsn: parameter %s %s", name, why)
	}
	if name != "" {
		return fmt.Errorf("dsn: parameter %s is misspelled or given twice", name)
	}
	return errors.New("dsn has a parameter that is not known, or a value with an unescaped blank, & or =: other settings of the server go into options, such as options=-c%20name%3Dvalue in a URL")
}

// oneEdit reports whether a and b differ by one letter that is missing, extra or
// another.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return a[i:] == b[min(i+1, len(b)):] || len(a) == len(b) && i < len(a) && a[i+1:] == b[i+1:]
}

// choices are the values of parameters that have few.
var choices = map[string][]string{
	"sslmode":              {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
	"sslnegotiation":       {"postgres", "direct"},
	"sslsni":               {"0", "1"},
	"target_session_attrs": {"read-write", "primary", "any"},
	"channel_binding":      {"disable", "prefer", "require"},
	"min_protocol_version": {"3.0", "3.2", "latest"},
	"max_protocol_version": {"3.0", "3.2", "latest"},
}

// environment names the variables that stand in for parameters.
var environment = map[string]string{
	"PGHOST": "host", "PGPORT": "port", "PGSSLMODE": "sslmode", "PGCONNECT_TIMEOUT": "connect_timeout", "PGTARGETSESSIONATTRS": "target_session_attrs",
	"PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey", "PGPASSFILE": "passfile", "PGCHANNELBINDING": "channel_binding",
}

// checkSettings refuses what can't work, before anything is connected to.
func checkSettings(settings map[string]string) error {
	all := make(map[string]string)
	for variable, name := range environment {
		if value := os.Getenv(variable); value != "" && settings[name] == "" {
			all[name] = value
			if err := checkSetting(name, value); err != nil {
				return fmt.Errorf("environment variable %s: %w", variable, err)
			}
		}
	}
	for name, value := range settings {
		if err := checkSetting(name, value); err != nil {
			return err
		}
		all[name] = value
	}
	hosts, ports := strings.Split(all["host"], ","), strings.Split(all["port"], ",")
	mode := all["sslmode"]
	switch {
	case len(ports) > 1 && len(ports) != len(hosts):
		return fmt.Errorf("there are %d ports for %d hosts: give one for all, or one for each", len(ports), len(hosts))
	case (all["sslcert"] == "") != (all["sslkey"] == ""):
		return errors.New("sslcert and sslkey belong together: give both or neither")
	case mode == "disable" && all["channel_binding"] == "require":
		return errors.New("channel_binding require needs TLS, which sslmode disable switches off")
	case mode == "verify-ca" && all["sslrootcert"] == "system":
		return errors.New("sslrootcert system needs sslmode verify-full")
	}
	return nil
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9._])?$|^$`)
	socket   = regexp.MustCompile(`^/[A-Za-z0-9._/-]*$`)
)

// checkSetting checks one parameter. Of its value, only paths of files are
// repeated.
func checkSetting(name, value string) error {
	if allowed, ok := choices[name]; ok && !slices.Contains(allowed, value) {
		// The aliases of libpq for an ssl parameter.
		if name == "sslmode" && value == "true" {
			return nil
		}
		return fmt.Errorf("%s must be one of %s", name, strings.Join(allowed, ", "))
	}
	switch name {
	case "host":
		for one := range strings.SplitSeq(value, ",") {
			bare := strings.TrimSuffix(strings.TrimPrefix(one, "["), "]")
			if net.ParseIP(bare) == nil && !hostName.MatchString(one) && !socket.MatchString(one) {
				return errors.New("host is not a name, an address or the path of a socket's directory; a password before it must be percent-encoded")
			}
		}
	case "port":
		for one := range strings.SplitSeq(value, ",") {
			if n, err := strconv.ParseUint(one, 10, 16); one != "" && (err != nil || n == 0) {
				return errors.New("port must be a number from 1 to 65535; a : in a password must be written %3A")
			}
		}
	case "connect_timeout":
		if n, err := strconv.ParseUint(value, 10, 31); err != nil || n > 3600 {
			return errors.New("connect_timeout must be a whole number of seconds, such as 5")
		}
	case "sslrootcert", "sslcert", "sslkey", "passfile", "servicefile":
		if name == "sslrootcert" && value == "system" {
			return nil
		}
		file, err := os.ReadFile(value)
		var path *os.PathError
		if errors.As(err, &path) {
			return fmt.Errorf("%s can't be read: %s: %w", name, value, path.Err)
		}
		if strings.HasPrefix(name, "ssl") && !strings.Contains(string(file), "-----BEGIN ") {
			return fmt.Errorf("%s is not a PEM file: %s", name, value)
		}
	}
	return nil
}
