package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// insideEnv is set in the process that runs in a network of its own.
const insideEnv = "EGRESS_TEST_NETWORK"

// TestNothingForbiddenIsReached tries the rows of network_rows_test.go under
// both of Go's resolvers. It does so in a network namespace in which every
// address there is leads to this host, so that each target has a listener
// behind it, and in which all names are resolved by a server of the test's own.
func TestNothingForbiddenIsReached(t *testing.T) {
	if resolver := os.Getenv(insideEnv); resolver != "" {
		tryRows(t, resolver)
		return
	}
	for _, resolver := range []string{"go", "cgo"} {
		t.Run(resolver, func(t *testing.T) {
			if resolver == "cgo" && !withCgo {
				testenv.Skip(t, "cgo, for the C library's resolver", "apt-get install gcc libc6-dev, and set CGO_ENABLED=1")
			}
			testenv.Need(t, "ip", "apt-get install iproute2")
			cmd := exec.Command(os.Args[0], "-test.run=^TestNothingForbiddenIsReached$", "-test.v", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), insideEnv+"="+resolver, "GODEBUG=netdns="+resolver,
				"HTTP_PROXY=http://10.99.0.1:3128", "HTTPS_PROXY=http://10.99.0.1:3128", "ALL_PROXY=socks5://10.99.0.1:3128",
				"http_proxy=http://10.99.0.1:3128", "https_proxy=http://10.99.0.1:3128", "all_proxy=socks5://10.99.0.1:3128", "NO_PROXY=", "no_proxy=")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
			if os.Getuid() != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
			}
			out, err := cmd.CombinedOutput()
			if errors.Is(err, syscall.EPERM) {
				testenv.Skip(t, "the right to make a network namespace", "run it as root on a host or in a privileged container")
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// tryRows runs inside the namespace.
func tryRows(t *testing.T, resolver string) {
	for _, args := range []string{
		"link set lo up", "route add local default dev lo", "-6 route add local default dev lo",
		"addr add " + ownAddr + "/32 dev lo", "-6 addr add " + ownAddr6 + "/128 dev lo",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	etc(t, "resolv.conf", "nameserver 127.0.0.1\nsearch corp.example\noptions timeout:2 attempts:2\n")
	etc(t, "hosts", "127.0.0.1 localhost\n10.0.0.7 intranet hosts.example\n")
	etc(t, "nsswitch.conf", "hosts: files dns\n")
	dns := serveDNS(t)
	reached := listen(t)

	g, err := New(Config{AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	client, bare := g.Client(), *g.Client()
	bare.Transport = g.Transport() // without the check of the text
	defer client.CloseIdleConnections()
	defer bare.CloseIdleConnections()
	post := func(c *http.Client, raw string) (int, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, raw, strings.NewReader("{}"))
		if err != nil {
			return 0, err
		}
		resp, err := c.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, nil
	}

	rows := forbiddenRows()
	reachable := 0
	for _, row := range rows {
		// What a sender without a guard would have reached.
		if row.target.IsValid() {
			if conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(row.target, 80).String(), 5*time.Second); err == nil {
				_ = conn.Close()
				reachable++
			}
		}
	}
	reached.reset(t)
	for _, row := range rows {
		for _, c := range []*http.Client{client, &bare} {
			// Without the check of the text, some forms lead to the
			// public address beside it.
			if status, err := post(c, row.url); err == nil && !row.answers && c == client {
				t.Errorf("%s: %s got an answer with status %d", row.name, row.url, status)
			}
		}
		// A second look-up, for names that change their answers.
		if row.again {
			for range 3 {
				_, _ = post(client, row.url)
			}
		}
		for _, addr := range reached.reset(t) {
			if !public[addr] {
				t.Errorf("%s: %s made a connection to %s", row.name, row.url, addr)
			}
		}
	}
	// The same machinery does reach what it may.
	for _, raw := range allowedURLs {
		client.CloseIdleConnections()
		if status, err := post(client, raw); err != nil || status != http.StatusOK {
			t.Errorf("%s: got %d, %v; want 200", raw, status, err)
		}
		if addrs := reached.reset(t); len(addrs) == 0 {
			t.Errorf("%s made no connection", raw)
		}
	}
	if dns.queries() == 0 {
		t.Error("the test's own DNS server was asked nothing")
	}
	t.Logf("%s resolver: %d rows, %d of their targets answer a sender without a guard; 0 connections; %d DNS queries", resolver, len(rows), reachable, dns.queries())
	if len(rows) < 120 || reachable < 50 {
		t.Errorf("only %d rows with %d reachable targets: the table does not try what it should", len(rows), reachable)
	}
}

// etc puts a file of the test's over one of the system's, for this process.
func etc(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/" + name); os.IsNotExist(err) {
		t.Logf("there is no /etc/%s to put another in the place of", name)
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(path, "/etc/"+name, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// listeners accept connections to any address, on the ports of interest.
type listeners struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

var listenPorts = []string{"22", "25", "80", "443", "3128", "6379", "8443"}

func listen(t *testing.T) *listeners {
	l := new(listeners)
	for _, port := range listenPorts {
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{
			ErrorLog: log.New(io.Discard, "", 0),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if to := r.URL.Query().Get("to"); to != "" {
					w.Header().Set("Location", to)
					w.WriteHeader(http.StatusTemporaryRedirect)
				}
			}),
			ConnState: func(c net.Conn, state http.ConnState) {
				if state != http.StateNew {
					return
				}
				addr := netip.MustParseAddrPort(c.LocalAddr().String()).Addr()
				l.mu.Lock()
				defer l.mu.Unlock()
				l.addrs = append(l.addrs, addr.Unmap().WithZone(""))
			},
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ln) }()
		t.Cleanup(func() { _ = s.Close(); <-done })
	}
	return l
}

// sentinel is connected to by the test itself, to know that all connections
// before it have been accepted.
var sentinel = netip.MustParseAddr("127.99.99.99")

// reset gives the addresses that were connected to since the last time.
func (l *listeners) reset(t *testing.T) (addrs []netip.Addr) {
	t.Helper()
	var conns []net.Conn
	for _, port := range listenPorts {
		conn, err := net.Dial("tcp", net.JoinHostPort(sentinel.String(), port))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		seen := 0
		for _, a := range l.addrs {
			if a == sentinel {
				seen++
			}
		}
		if seen == len(listenPorts) || time.Now().After(deadline) {
			for _, a := range l.addrs {
				if a != sentinel {
					addrs = append(addrs, a)
				}
			}
			l.addrs = nil
			l.mu.Unlock()
			for _, conn := range conns {
				_ = conn.Close()
			}
			if seen != len(listenPorts) {
				t.Fatal("the listeners don't answer")
			}
			return addrs
		}
		l.mu.Unlock()
	}
}

// nameServer answers from the table of names.
type nameServer struct {
	mu    sync.Mutex
	asked map[string]int // by name and type
	n     int
}

func (s *nameServer) queries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func serveDNS(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{asked: make(map[string]int)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := s.answer(buf[:n]); err == nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return s
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.mu.Lock()
	s.n++
	key := fmt.Sprint(name, q.Type)
	count := s.asked[key]
	s.asked[key]++
	s.mu.Unlock()

	records, known := zone(name, count)
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionAvailable: true, RecursionDesired: h.RecursionDesired})
	if !known {
		b = dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RCode: dnsmessage.RCodeNameError})
	}
	b.EnableCompression()
	if err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers()); err != nil {
		return nil, err
	}
	owner := q.Name
	for _, r := range records {
		rh := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}
		a, err := netip.ParseAddr(r)
		switch {
		case err != nil: // an alias
			target, err := dnsmessage.NewName(r + ".")
			if err != nil {
				return nil, err
			}
			if err := b.CNAMEResource(rh, dnsmessage.CNAMEResource{CNAME: target}); err != nil {
				return nil, err
			}
			owner = target
		case a.Is4() && q.Type == dnsmessage.TypeA:
			err = b.AResource(rh, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil && a.IsValid() {
			return nil, err
		}
	}
	return b.Finish()
}
