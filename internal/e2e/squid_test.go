package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// squidScript runs squid, to which it shows the resolver to ask.
const squidScript = `mount --bind "$1/resolv.conf" /etc/resolv.conf
exec squid --foreground -f "$1/squid.conf"
`

// squidConf leaves out what a squid needs that keeps pages.
const squidConf = `http_port %[2]s
http_access allow localhost
cache_effective_user proxy
cache deny all
server_persistent_connections off
access_log stdio:%[1]s/access.log
cache_log %[1]s/cache.log
pid_filename %[1]s/squid.pid
coredump_dir none
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
`

// squid is the distribution's, in the router.
type squid struct {
	lab *testnet.Lab
	dir string // its log's, among others
	at  string
}

// startSquid starts one by the distribution's user for it, which asks that resolver for names.
func startSquid(t *testing.T, lab *testnet.Lab, port uint16, resolver netip.Addr) *squid {
	t.Helper()
	s := &squid{lab, filepath.Join(lab.Dir(), fmt.Sprint("squid", port)), fmt.Sprintf("127.0.0.1:%d", port)}
	run(t, lab.Router, "install", "-d", "-o", "proxy", s.dir)
	for name, text := range map[string]string{
		"squid.conf":  fmt.Sprintf(squidConf, s.dir, s.at),
		"resolv.conf": fmt.Sprintf("nameserver %v\n", resolver),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	startUnpacked(t, lab, squidScript, s.dir)
	eventually(t, patience, "squid", func() error {
		conn, err := lab.Router.Dial(t.Context(), "tcp", s.at)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return s
}

// fetch has a user's program ask for pages, by a plain request and by CONNECT, of both families
// and by name, and checks whom the servers saw.
func (s *squid) fetch(name string, want func(netip.Addr) bool) error {
	var errs []error
	for _, host := range []string{testnet.Web4.String(), "[" + testnet.Web6.String() + "]", name + "." + testnet.Zone} {
		for _, scheme := range []string{"http", "https"} {
			errs = append(errs, fetchByProxy(s.lab.Router.As(someone), s.at, scheme+"://"+host+"/", want))
		}
	}
	return errors.Join(errs...)
}

// checkLog wants it to be squid that fetched this, by both methods.
func (s *squid) checkLog(t *testing.T, name string) {
	t.Helper()
	eventually(t, patience, "squid's log", func() error {
		text, err := os.ReadFile(filepath.Join(s.dir, "access.log"))
		for _, entry := range []string{"GET http://", "CONNECT "} {
			if entry += name + "." + testnet.Zone; err == nil && !strings.Contains(string(text), entry) {
				err = fmt.Errorf("there is no %q in %s", entry, text)
			}
		}
		return err
	})
}

// checkAsked wants a name to have been asked of the ISP's resolver, and by whom.
func checkAsked(t *testing.T, lab *testnet.Lab, name string, by func(netip.Addr) bool) {
	t.Helper()
	asked := lab.DNS.QueriesFor(name + "." + testnet.Zone)
	if len(asked) == 0 {
		t.Errorf("nobody has asked for %s", name)
	}
	for _, q := range asked {
		if !by(q.Source.Addr()) {
			t.Errorf("%s was asked for by %v", name, q.Source)
		}
	}
}

// TestSquidByItsUser: a squid that runs already goes direct by a rule for its user, and so do
// its questions to a resolver elsewhere; what one of this machine asks for it is Tor's, as is all
// that a program sends that uses it.
func TestSquidByItsUser(t *testing.T) {
	lab := torLab(t)
	far := startSquid(t, lab, 3128, testnet.Resolver4)
	near := startSquid(t, lab, 3129, netip.MustParseAddr("127.0.0.1"))
	if err := far.fetch("earlier", ownAddress); err != nil {
		t.Errorf("without client mode: %v", err)
	}
	attach(t, lab, "--client")
	if err := far.fetch("before", lab.Tor.IsExit); err != nil {
		t.Errorf("without a rule: %v", err)
	}
	mustTorbpf(t, lab, "exclude", "add", "--user", "proxy")
	capture := captureWAN(t, lab)
	if err := errors.Join(far.fetch("far", ownAddress), near.fetch("near", ownAddress)); err != nil {
		t.Error(err)
	}
	far.checkLog(t, "far")
	near.checkLog(t, "near")
	n := lab.Router.As(someone)
	checkByTor(t, lab, n, testnet.Other4)
	checkByTor(t, lab, n, testnet.Other6)
	checkNoEcho(t, n, testnet.Web4, testnet.Web6)
	for _, server := range []netip.Addr{testnet.Resolver4, testnet.PublicResolver6} {
		if err := lookup(n, at(server, testnet.PortDNS), "program."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
			t.Error(err)
		}
	}
	checkAsked(t, lab, "far", ownAddress)
	checkAsked(t, lab, "near", lab.Tor.IsExit)
	checkAsked(t, lab, "program", lab.Tor.IsExit)
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	squids := []netip.AddrPort{
		at(testnet.Web4, testnet.PortHTTP), at(testnet.Web4, testnet.PortHTTPS), at(testnet.Web6, testnet.PortHTTP),
		at(testnet.Web6, testnet.PortHTTPS), at(testnet.Resolver4, testnet.PortDNS),
	}
	for _, p := range capture.NonTor() {
		if !slices.Contains(squids, p.Dst) {
			t.Errorf("on the WAN: %v", p)
		}
	}
	mustTorbpf(t, lab, "exclude", "del", "--user", "proxy")
	after := captureWAN(t, lab)
	if err := far.fetch("after", lab.Tor.IsExit); err != nil {
		t.Errorf("the rule is gone: %v", err)
	}
	checkAsked(t, lab, "after", lab.Tor.IsExit)
	checkNoLeaks(t, after)
}
