package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// TestDomains: the answers for an excluded name are direct for the device that asked.
func TestDomains(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	mustTorbpf(t, lab, "exclude", "add", "--domain", "other."+testnet.Zone, "--resolver", testnet.Resolver4.String())
	forget(lab)
	n := lab.Client1
	checkNoEcho(t, n, testnet.Other4, testnet.Other6) // nobody has asked yet
	for qtype, want := range map[string]netip.Addr{"A": testnet.Other4, "AAAA": testnet.Other6} {
		if err := lookup(n, n.Resolver, "other."+testnet.Zone, qtype, "udp", want.String()); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range lab.DNS.QueriesFor("other." + testnet.Zone) {
		if q.Source.Addr() != testnet.WANRouter4 || q.Local.Addr() != testnet.Resolver4 {
			t.Errorf("the resolver was asked %v", q)
		}
	}
	if asked := lab.RouterDNS.Queries(); len(asked) > 0 {
		t.Errorf("the router's own resolver was asked %v", asked)
	}
	checkEcho(t, n, testnet.Other4, testnet.Other6)
	checkDirect(t, n, testnet.Other4)
	checkDirect(t, n, testnet.Other6)
	checkNoEcho(t, n, testnet.Web4)
	checkNoEcho(t, lab.Client2, testnet.Other4, testnet.Other6) // it has not asked
	if err := lookup(lab.Client2, at(testnet.PublicResolver4, testnet.PortDNS), "OTHER."+testnet.Zone, "A", "udp", testnet.Other4.String()); err != nil {
		t.Error(err)
	}
	checkEcho(t, lab.Client2, testnet.Other4)

	// Another change of the policy leaves its connections alone; its removal does not.
	f := openFlow(t, n, "tcp", at(testnet.Other4, portFlows))
	mustTorbpf(t, lab, "exclude", "add", "--port", "9/tcp")
	if err := f.echo(); err != nil {
		t.Errorf("a connection by name ended with another change: %v", err)
	}
	capture := captureWAN(t, lab)
	mustTorbpf(t, lab, "exclude", "del", "--domain", "other."+testnet.Zone)
	if err := f.ends(); err != nil {
		t.Error(err)
	}
	checkNoEcho(t, n, testnet.Other4, testnet.Other6)
	// What it was told under that rule is none of the next one's.
	mustTorbpf(t, lab, "exclude", "add", "--domain", "other."+testnet.Zone, "--resolver", testnet.Resolver4.String())
	checkNoEcho(t, n, testnet.Other4, testnet.Other6)
	checkNoLeaks(t, capture)
}

// TestExcludedNamesNeedNoTor by UDP nor by TCP, and what else is asked gets no further.
func TestExcludedNamesNeedNoTor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	n, name := lab.Client1, "other."+testnet.Zone
	if reply, err := testnet.DNSQuery(n, n.Resolver, name, "A", "tcp", patience); err == nil {
		t.Errorf("TCP with no name excluded: %v", reply)
	}
	mustTorbpf(t, lab, "exclude", "add", "--domain", name, "--resolver", testnet.Resolver4.String())
	forget(lab)
	for _, proto := range []string{"tcp", "udp"} {
		for _, c := range []dnsCase{
			{name, "A", "NOERROR " + testnet.Other4.String()}, {name, "HTTPS", "SERVFAIL"}, {"www." + testnet.Zone, "A", "SERVFAIL"},
			{n.Name + ".lan", "A", "NOERROR " + n.IPv4.String()}, {"secret.lan", "A", "NXDOMAIN"},
		} {
			reply, err := testnet.DNSQuery(n, n.Resolver, c.name, c.qtype, proto, patience)
			if err != nil {
				t.Errorf("%s of %s by %s: %v", c.qtype, c.name, proto, err)
			} else if got := answers(reply); got != c.want {
				t.Errorf("%s of %s by %s: got %s, want %s", c.qtype, c.name, proto, got, c.want)
			}
		}
		checkDirect(t, n, testnet.Other4)
	}
	for _, q := range lab.DNS.Queries() {
		if q.Name != name || q.Type != "A" {
			t.Errorf("the resolver was asked %v", q)
		}
	}
	if err := refusedAtOnce(n, at(testnet.Web4, testnet.PortHTTP)); err != nil {
		t.Error(err)
	}
}

// TestAnEndedDomainIsNotAskedFor in clear by the sentry, which nobody has told.
func TestAnEndedDomainIsNotAskedFor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	name := "other." + testnet.Zone
	mustTorbpf(t, lab, "exclude", "add", "--domain", name, "--resolver", testnet.Resolver4.String(), "--for", "8s")
	release, err := leaktest.HoldGateOpen(pinDir(t, lab))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	n := lab.Client1
	if err := lookup(n, n.Resolver, name, "A", "tcp", testnet.Other4.String()); err != nil {
		t.Error(err)
	}
	eventually(t, patience, "the rule's end", func() error {
		if r := mustTorbpf(t, lab, "exclude", "list"); strings.Contains(r.stdout, name) {
			return fmt.Errorf("it is listed: %s", r.stdout)
		}
		return nil
	})
	forget(lab)
	for _, proto := range []string{"tcp", "udp"} {
		if reply, err := testnet.DNSQuery(n, n.Resolver, name, "A", proto, hush); err == nil && len(reply.Answer) > 0 {
			t.Errorf("%s: answered %v", proto, reply)
		}
	}
	if asked := lab.DNS.Queries(); len(asked) > 0 {
		t.Errorf("the resolver was asked %v", asked)
	}
}

// TestDomainsOfEveryKind: those below a name, aliases, what a hostile answer says, and
// an answer whose time is over.
func TestDomainsOfEveryKind(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	n := lab.Client1
	mustTorbpf(t, lab, "exclude", "add", "--resolver", testnet.Resolver4.String(), "--domain",
		"alias."+testnet.Zone, "*.deep."+testnet.Zone, "private."+testnet.Zone, "short."+testnet.Zone)
	ask := func(name, want string) {
		t.Helper()
		if err := lookup(n, n.Resolver, name+"."+testnet.Zone, "A", "udp", want); err != nil {
			t.Error(err)
		}
	}
	if err := lookup(n, n.Resolver, "deep."+testnet.Zone, "A", "udp", testnet.Web4.String()); err == nil {
		t.Error("a name above those that are excluded was answered without Tor")
	}
	checkNoEcho(t, n, testnet.Web4)
	ask("a.b.deep", testnet.Web4.String())
	checkEcho(t, n, testnet.Web4)
	checkNoEcho(t, n, testnet.Web6)
	if reply, err := testnet.DNSQuery(n, n.Resolver, "alias."+testnet.Zone, "A", "udp", patience); err != nil || len(reply.Answer) != 2 {
		t.Errorf("an alias: %v, %v", reply, err)
	}
	if reply, err := testnet.DNSQuery(n, n.Resolver, "private."+testnet.Zone, "A", "udp", patience); err != nil || len(reply.Answer) > 0 {
		t.Errorf("a private address for a public name: %v, %v", reply, err)
	}

	begin := time.Now()
	ask("short", testnet.Other4.String())
	f := openFlow(t, n, "tcp", at(testnet.Other4, portFlows))
	eventually(t, 30*time.Second, "the answer to be over", func() error {
		if err := f.echo(); err != nil {
			t.Errorf("a connection ended with the answer: %v", err)
		}
		if err := testnet.Echo(n, "udp", at(testnet.Other4, testnet.PortHTTPS), hush); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("new flows are still direct")
		}
		return nil
	})
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("it was over after %v", took)
	}
	if err := f.echo(); err != nil {
		t.Errorf("a connection that began in time ended: %v", err)
	}
	mustTorbpf(t, lab, "exclude", "del", "--domain", "short."+testnet.Zone)
	if err := f.ends(); err != nil {
		t.Error(err)
	}
	for args, says := range map[string]string{
		"com": "top-level", "bank..example": "not a name", "abc.onion": "no part of the public DNS", "bänk.example": "xn--", "printer.lan": "no part of the public DNS",
		"bank.example --resolver nowhere": "no address", "bank.example --resolver 0.0.0.0": "no resolver's address", "bank.example --policy tor": "there is direct",
	} {
		r := runTorbpf(t, lab, append([]string{"exclude", "add", "--domain"}, strings.Fields(args)...)...)
		if r.code != 2 || !strings.Contains(r.stderr, says) {
			t.Errorf("%s: %v, want exit code 2 and %q", args, r, says)
		}
	}
}
