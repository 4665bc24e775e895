package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// openings are rules by which the web servers are reached directly.
var openings = []struct {
	name    string
	rule    []string
	options []string
	marks   string // rules of the user's that give the mark
	queries bool   // it lets out those to the public resolver, too
}{
	{name: "destinations", rule: []string{"51.20.0.0/16", "2a0e:20::/32"}},
	{name: "ports", rule: []string{"--port", "80/tcp", "7/udp", "53/udp@" + testnet.PublicResolver4.String()}, queries: true},
	{name: "a mark", rule: []string{"--mark", "0x200/0xff00"}, marks: usersMarks},
	{name: "an interface", rule: []string{"--interface", wan}, options: []string{"--force"}},
}

// usersMarks write over all of the mark, before torbpf looks at a packet and once it has.
const usersMarks = `
	chain first { type route hook output priority -150;
		ip daddr 51.20.0.80 meta mark set 0x200
		ip6 daddr 2a0e:20::80 meta mark set 0x200
	}
	chain last { type filter hook output priority -20;
		ip daddr 51.20.0.80 udp dport 7 meta mark set 0x200
		ip6 daddr 2a0e:20::80 udp dport 7 meta mark set 0x200
	}`

// TestExecByTorKnowsNoExclusions: what is excluded for this machine is so for all but what
// exec --tor runs, whether the rest is on Tor or not.
func TestExecByTorKnowsNoExclusions(t *testing.T) {
	lab := torLab(t)
	flags := []string{"--tor", "--config", configuration(t, lab, "interfaces = [\"eth1\"]")}
	t.Run("the rest is direct", func(t *testing.T) {
		detachLater(t, lab)
		checkNoOpenings(t, lab, execSpeaker(t, lab, flags))
	})
	t.Run("the rest is on Tor", func(t *testing.T) {
		attach(t, lab, "--client")
		checkNoOpenings(t, lab, execSpeaker(t, lab, flags))
	})
}

// execSpeaker is a speaker that torbpf exec runs.
func execSpeaker(t testing.TB, lab *testnet.Lab, flags []string) *speaker {
	t.Helper()
	args := append(append([]string{"exec"}, flags...), "--user", "nobody", "--", speakerFile)
	return speakerBy(t, lab.Router.Command(t.Context(), program, args...))
}

// checkNoOpenings has who runs by Tor try what each rule lets out for others.
func checkNoOpenings(t *testing.T, lab *testnet.Lab, s *speaker) {
	t.Helper()
	s.must(t, "get %v", testnet.Other4) // it is ready
	others := startSpeaker(t, lab, someone, "")
	for i, o := range openings {
		t.Run(o.name, func(t *testing.T) {
			if o.marks != "" {
				userRules(t, lab, "inet", o.marks)
			}
			mustTorbpf(t, lab, slices.Concat([]string{"exclude", "add", "--client"}, o.options, o.rule)...)
			capture := captureWAN(t, lab)
			if err := both(func(addr netip.Addr) error { return byTorAlone(lab, s, addr) }); err != nil {
				t.Error(err)
			}
			s.must(t, "ask %v by-tor-%d.%s", at(testnet.PublicResolver4, testnet.PortDNS), i, testnet.Zone)
			checkNothingTo(t, capture, testnet.Web4, testnet.Web6, testnet.PublicResolver4)
			if err := both(others.direct); err != nil {
				t.Errorf("others: %v", err)
			}
			if o.queries {
				others.must(t, "ask %v others-%d.%s", at(testnet.PublicResolver4, testnet.PortDNS), i, testnet.Zone)
				for _, q := range lab.DNS.QueriesFor(fmt.Sprintf("others-%d.%s", i, testnet.Zone)) {
					if q.Source.Addr() != testnet.WANRouter4 {
						t.Errorf("%v asked for what others ask", q.Source)
					}
				}
			}
			mustTorbpf(t, lab, slices.Concat([]string{"exclude", "del", "--client"}, o.rule)...)
		})
	}
}

// checkNothingTo wants no packet to or from hosts in clear. To others the rest of the machine may
// have something to say, such as an answer to a test before.
func checkNothingTo(t *testing.T, capture *testnet.Capture, hosts ...netip.Addr) {
	t.Helper()
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	for _, p := range capture.NonTor() {
		if slices.Contains(hosts, p.Src.Addr()) || slices.Contains(hosts, p.Dst.Addr()) {
			t.Errorf("on the WAN: %v", p)
		}
	}
}

// byTorAlone wants a page to come from an exit, and no answer to a datagram.
func byTorAlone(lab *testnet.Lab, s *speaker, addr netip.Addr) error {
	saw, err := s.say("get %v", addr)
	if err != nil {
		return err
	}
	if source, err := netip.ParseAddr(saw); err != nil || !lab.Tor.IsExit(source) {
		return fmt.Errorf("%v saw %q", addr, saw)
	}
	if _, err := s.say("try udp %v", at(addr, testnet.PortEcho)); err == nil {
		return fmt.Errorf("%v answers datagrams", addr)
	}
	return nil
}
