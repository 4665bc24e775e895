package e2e

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// asked is one run of explain, and words that it must have.
type asked struct {
	args []string
	says []string
}

// neverSeen is an address of the LAN that no client has.
const neverSeen = "192.168.50.77"

// TestExplain: for each kind of packet what decides, what follows, and what to type; and
// what is typed does it.
func TestExplain(t *testing.T) {
	lab := plainLab(t, testnet.Options{SecondLAN: true})
	attach(t, lab, lan, lan2, "--no-wait", "--torrc", loneTorrc(t, lab))
	t.Run("without rules", func(t *testing.T) { explainDefaults(t, lab) })
	t.Run("names", func(t *testing.T) { explainNames(t, lab) })
	t.Run("rules", func(t *testing.T) { explainRules(t, lab) })
	t.Run("rules that say tor", func(t *testing.T) { explainTorRules(t, lab) })
	t.Run("an interface", func(t *testing.T) { explainExit(t, lab) })
	t.Run("excluded names", func(t *testing.T) { explainDomains(t, lab) })
	t.Run("lists", func(t *testing.T) { explainLists(t, lab) })
	t.Run("devices", func(t *testing.T) { explainDevices(t, lab) })
	t.Run("marks", func(t *testing.T) { explainMarks(t, lab) })
	t.Run("its own advice", func(t *testing.T) { followAdvice(t, lab) })
	t.Run("without Ethernet", func(t *testing.T) { explainTunnel(t, lab) })
	t.Run("nothing moves", func(t *testing.T) { explainMovesNothing(t, lab) })
	t.Run("bad input", func(t *testing.T) { explainBadInput(t, lab) })
}

func checkExplained(t *testing.T, lab *testnet.Lab, all ...asked) {
	t.Helper()
	for _, a := range all {
		r := mustTorbpf(t, lab, append([]string{"explain"}, a.args...)...)
		for _, want := range a.says {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("explain %s: does not say %q:\n%s", strings.Join(a.args, " "), want, r.stdout)
			}
		}
	}
}

// words splits a command line, behind a device's address.
func words(line string) []string {
	return append([]string{"--from", neverSeen}, strings.Fields(line)...)
}

func explainDefaults(t *testing.T, lab *testnet.Lab) {
	checkExplained(t, lab,
		asked{words("--to 1.1.1.1"), []string{
			"192.168.50.77:40000 > 1.1.1.1:443, tcp, by eth1", "verdict    refused", "tor-not-ready", "once Tor is ready: tor, tcp",
			"a reset, in the name of 1.1.1.1", "redirects it to tor's TransPort, 9040", "sudo torbpf status"}},
		asked{words("--to 1.1.1.1 --proto udp --dport 443"), []string{
			"refused", "quic: QUIC (UDP 443)", "no rule is about it", "ICMP port unreachable, from 1.1.1.1", "exclude add --port 443/udp@1.1.1.1"}},
		asked{words("--to 1.1.1.1 --proto udp --dport 123"), []string{"ntp: NTP", "apt install chrony"}},
		asked{words("--to 1.1.1.1 --proto icmp"), []string{"icmp", "ICMP administratively prohibited, from 192.168.50.1", "--port icmp@1.1.1.1"}},
		asked{words("--to 1.1.1.1 --proto gre"), []string{"protocol", "--port gre@1.1.1.1"}},
		asked{words("--to 1.1.1.1 --proto 41"), []string{"protocol", "--port ip-41@1.1.1.1"}},
		asked{words("--to 10.1.1.1"), []string{"private", "in the reserved space 10.0.0.0/8", "--local reserved"}},
		asked{words("--to 192.168.50.1"), []string{"verdict    local", "router-address", "is an address of the router's", "never forwarded"}},
		asked{words("--to 192.168.50.1 --dport 9040"), []string{"router-address", "drops it in silence (closed_port): port 9040"}},
		asked{words("--to 192.168.50.1 --proto udp --dport 9053"), []string{"drops it in silence (closed_port)"}},
		asked{words("--to 192.168.50.12"), []string{"local-subnet", "192.168.50.0/24 of eth1", "it stays behind eth1"}},
		asked{words("--to 192.168.60.11"), []string{"192.168.60.0/24 of eth2", "forwarded by eth2", "routes it by eth2 now"}},
		asked{words("--to 10.193.1.1"), []string{"once Tor is ready: onion, onion-tcp", "in the .onion range 10.192.0.0/10"}},
		asked{words("--to 224.0.0.251 --proto udp --dport 5353"), []string{"multicast", "stays on the link of eth1"}},
		asked{words("--to 192.168.50.255 --proto udp --dport 53"), []string{"router-dns", "address of a group", "none, in silence"}},
		asked{words("--to 192.168.50.1 --proto tcp --dport 853"), []string{"router-dns", "a reset, in the name of 192.168.50.1"}},
		asked{[]string{"--from", "fd50::77", "--to", "2606:4700::1111", "--proto", "udp", "--dport", "443"}, []string{
			"[fd50::77]:40000 > [2606:4700::1111]:443", "quic", "ICMP port unreachable, from 2606:4700::1111"}},
		asked{[]string{"--from", "fd50::77", "--to", "2606:4700::1111", "--proto", "icmp"}, []string{"icmp", "prohibited, from ", "--port icmp@2606:4700::1111"}},
		asked{[]string{"--from", "1.2.3.4", "--to", "1.1.1.1", "--lan", lan}, []string{"foreign-source", "no LAN has the source 1.2.3.4", "none, in silence"}},
		asked{[]string{"--from", "192.168.60.77", "--to", "1.1.1.1"}, []string{"by eth2"}},
	)
}

// explainNames: the query, not the addresses that it might get.
func explainNames(t *testing.T, lab *testnet.Lab) {
	checkExplained(t, lab,
		asked{words("--to bank.example"), []string{
			"192.168.50.1:53, udp", "DNS query bank.example A", "once Tor is ready: dns, dns-udp", "DNS with SERVFAIL", "DNSPort, 9053", "Name one: --to ADDRESS", "exclude add --domain bank.example --resolver ADDRESS"}},
		asked{words("--to bank.example --type HTTPS"), []string{"once Tor is ready: refused, dns-no-data"}},
		asked{words("--to printer.lan --type AAAA"), []string{"verdict    resolver", "dns-local", "sentry, port 9054"}},
		asked{words("--to 9.9.9.9 --dport 53"), []string{"resolver, dns-tcp", "sentry, port 9054", "--port 53/tcp@9.9.9.9"}},
	)
}

func explainRules(t *testing.T, lab *testnet.Lab) {
	mustTorbpf(t, lab, "exclude", "add", "104.16.0.0/13", "--for", "1h", "--comment", "the bank")
	mustTorbpf(t, lab, "exclude", "add", "104.17.0.0/16", "--policy", "tor")
	mustTorbpf(t, lab, "exclude", "add", "--port", "22/tcp", "53/udp@9.9.9.9")
	mustTorbpf(t, lab, "exclude", "add", "--source", "192.168.50.64/29", "fd50::40/125")
	mustTorbpf(t, lab, "exclude", "add", "--source", "192.168.50.80", "--policy", "block")
	mustTorbpf(t, lab, "exclude", "add", "--device", testnet.MACClient2)
	run(t, lab.Client2, "ping", "-q", "-c", "1", "-W", "2", testnet.LANRouter4.String()) // the router learns who has its address
	onDevice := []string{"--from", lab.Client2.IPv4.String()}
	checkExplained(t, lab,
		asked{words("--to 104.16.1.1 --proto udp --dport 443"), []string{
			"verdict    direct", "direct-destination", "the rule destination 104.16.0.0/13 (direct) until ", "by exclude add: the bank", "routes it by eth0 to 62.10.0.1 now",
			"that rule ends by itself", "exclude add 104.16.1.1 --policy tor", "exclude del 104.16.0.0/13"}},
		asked{words("--to 104.17.1.1"), []string{"once Tor is ready: tor, tcp", "the rule destination 104.17.0.0/16 (tor)", "exclude del 104.17.0.0/16"}},
		asked{words("--to 1.1.1.1 --dport 22"), []string{"direct-port", "the rule port 22/tcp (direct)", "exclude add --port 22/tcp@1.1.1.1 --policy tor"}},
		asked{words("--to 9.9.9.9 --proto udp --dport 53"), []string{"direct-port", "the rule port 53/udp@9.9.9.9/32", "exclude del --port 53/udp@9.9.9.9/32"}},
		asked{[]string{"--from", "192.168.50.65", "--to", "1.1.1.1", "--proto", "udp", "--dport", "9"}, []string{
			"direct-source", "the rule source 192.168.50.64/29", "exclude add --source 192.168.50.65 --policy tor"}},
		asked{[]string{"--from", "192.168.50.65", "--to", "192.168.50.1"}, []string{"direct-source", "it is delivered to the router"}},
		asked{[]string{"--from", "fd50::41", "--to", "2606:4700::1111"}, []string{"direct-source", "the rule source fd50::40/125", "routes it by eth0 to "}},
		asked{[]string{"--from", "192.168.50.65", "--to", "10.193.1.1"}, []string{"onion-from-direct", "the rule source 192.168.50.64/29"}},
		asked{[]string{"--from", "192.168.50.80", "--to", "1.1.1.1"}, []string{"blocked-source", "exclude del --source 192.168.50.80/32"}},
		asked{append(onDevice, "--to", "1.1.1.1", "--proto", "icmp"), []string{"from " + testnet.MACClient2, "direct-device", "the rule device " + testnet.MACClient2, "sudo torbpf device tor " + testnet.MACClient2}},
		asked{words("--to 1.1.1.1 --mac " + testnet.MACClient2), []string{"direct-device"}},
		asked{words("--to 1.1.1.1"), []string{"is not known, so rules for devices were left out"}},
	)
	mustTorbpf(t, lab, "exclude", "del", "104.16.0.0/13", "104.17.0.0/16")
	mustTorbpf(t, lab, "exclude", "del", "--port", "22/tcp", "53/udp@9.9.9.9")
	mustTorbpf(t, lab, "exclude", "del", "--source", "192.168.50.64/29", "fd50::40/125", "192.168.50.80")
	mustTorbpf(t, lab, "exclude", "del", "--device", testnet.MACClient2)
	mustTorbpf(t, lab, "device", "block", testnet.MACClient2)
	checkExplained(t, lab, asked{append(onDevice, "--to", "1.1.1.1"), []string{"blocked-device", "device tor " + testnet.MACClient2}})
	mustTorbpf(t, lab, "device", "tor", testnet.MACClient2)
}

// explainTorRules: what a rule keeps with Tor follows from it, but not what a list or the
// local mode then lets out all the same.
func explainTorRules(t *testing.T, lab *testnet.Lab) {
	list := writeList(t, lab, "explained.txt", "104.16.0.0/13")
	mustTorbpf(t, lab, "exclude", "add", "--list", list)
	mustTorbpf(t, lab, "exclude", "add", "--source", neverSeen, "--policy", "tor")
	const rule = "the rule source " + neverSeen + "/32 (tor)"
	checkExplained(t, lab,
		asked{words("--to 1.1.1.1"), []string{"once Tor is ready: tor, tcp", rule, "exclude del --source " + neverSeen}},
		asked{words("--to bank.example"), []string{"once Tor is ready: dns, dns-udp", rule}},
		asked{words("--to 104.16.1.1"), []string{"direct-list", "is in the list " + list + ", line 1", "exclude add 104.16.1.1 --policy tor"}},
		asked{words("--to 10.193.1.1"), []string{"onion-tcp", "in the .onion range 10.192.0.0/10"}},
		asked{words("--to 192.168.50.1"), []string{"router-address", "is an address of the router's"}},
	)
	mustTorbpf(t, lab, "attach", lan, lan2, "--no-wait", "--local", "reserved")
	defer mustTorbpf(t, lab, "attach", lan, lan2, "--no-wait", "--local", "connected")
	checkExplained(t, lab, asked{words("--to 10.1.1.1"), []string{"reserved-open", "in the reserved space 10.0.0.0/8", "--local connected"}})
	mustTorbpf(t, lab, "exclude", "del", "--list", list)
	mustTorbpf(t, lab, "exclude", "del", "--source", neverSeen)
}

func explainExit(t *testing.T, lab *testnet.Lab) {
	changed([]string{"ip link add name wg0 type veth peer name wg-far", "ip addr add 10.66.0.2/24 dev wg0", "ip link set wg0 up", "ip link set wg-far up", "ip route add 104.16.0.0/13 via 10.66.0.1 dev wg0"},
		[]string{"ip link del wg0"})(t, lab)
	mustTorbpf(t, lab, "exclude", "add", "--interface", "wg0")
	defer mustTorbpf(t, lab, "exclude", "del", "--interface", "wg0")
	checkExplained(t, lab,
		asked{words("--to 104.16.1.1"), []string{"verdict    via", "direct-interface", "the rule interface wg0", "routes it by wg0 to 10.66.0.1 now", "depends on its route", "exclude del --interface wg0"}},
		asked{words("--to 1.1.1.1"), []string{"once Tor is ready: tor, tcp", "if that led to wg0 it would go there directly"}},
	)
	keptWithTor(t, lab, "104.16.1.1", asked{words("--to 104.16.1.1"), []string{"once Tor is ready: tor, tcp", "the rule destination 104.16.1.1/32 (tor)"}})
}

func explainDomains(t *testing.T, lab *testnet.Lab) {
	n, name := lab.Client1, "other."+testnet.Zone
	mustTorbpf(t, lab, "exclude", "add", "--domain", name, "--resolver", testnet.Resolver4.String())
	defer mustTorbpf(t, lab, "exclude", "del", "--domain", name)
	if err := lookup(n, n.Resolver, name, "A", "udp", testnet.Other4.String()); err != nil {
		t.Fatal(err)
	}
	device := []string{"--from", n.IPv4.String(), "--to"}
	checkExplained(t, lab,
		asked{append(device, name), []string{"verdict    resolver", "dns-domain", "the rule domain " + name, "asks " + testnet.Resolver4.String() + " in clear"}},
		asked{append(device, testnet.Other4.String()), []string{"verdict    direct", "direct-domain", "the rule domain " + name, "exclude del --domain " + name, "the answer that the device had"}},
		asked{words("--to " + testnet.Other4.String()), []string{"once Tor is ready: tor, tcp", "no rule is about it", "the names that are excluded"}},
		asked{words("--to another." + testnet.Zone), []string{"dns-udp", "sudo torbpf exclude add --domain another." + testnet.Zone}},
	)
	keptWithTor(t, lab, testnet.Other4.String(), asked{append(device, testnet.Other4.String()), []string{"once Tor is ready: tor, tcp", "the rule destination " + testnet.Other4.String() + "/32 (tor)"}})
}

// explainLists: those that have the address, by what is in force of them.
func explainLists(t *testing.T, lab *testnet.Lab) {
	town := writeList(t, lab, "town.txt", "# a town", "104.16.0.0/16", "104.16.1.0/24")
	country := writeList(t, lab, "country.txt", "104.16.0.0/13", "2606:4700::/32")
	other := writeList(t, lab, "other.txt", "203.0.113.0/24")
	mustTorbpf(t, lab, "exclude", "add", "--list", town, country, other)
	defer mustTorbpf(t, lab, "exclude", "del", "--list", town, country, other)
	checkExplained(t, lab,
		asked{words("--to 104.17.1.1"), []string{"direct-list", "104.17.1.1 is in the list " + country + ", line 1: 104.16.0.0/13\n"}},
		asked{words("--to 104.16.1.1"), []string{"is in the lists ", town + ", line 3: 104.16.1.0/24", " and ", country + ", line 1: 104.16.0.0/13"}},
		asked{[]string{"--from", "fd50::77", "--to", "2606:4700::1"}, []string{"is in the list " + country + ", line 2: 2606:4700::/32\n"}},
	)
	writeList(t, lab, "country.txt", "198.51.100.0/24") // which nobody has put in force
	checkExplained(t, lab, asked{words("--to 104.17.1.1"), []string{"is in the list " + country + " as it was read on ", ": 104.16.0.0/13\n"}})
}

// explainDevices: by whatever they are called, from an address that the router knows.
func explainDevices(t *testing.T, lab *testnet.Lab) {
	const name = "kitchen-tv"
	n := lab.Client2
	mustTorbpf(t, lab, "device", "name", testnet.MACClient2, name)
	defer mustTorbpf(t, lab, "device", "name", testnet.MACClient2)
	for _, router := range []string{testnet.LANRouter4.String(), testnet.LANRouter6.String()} {
		run(t, n, "ping", "-q", "-c", "1", "-W", "2", router)
	}
	from4, from6 := n.IPv4.String()+":40000 > 1.1.1.1:443", "["+n.IPv6.String()+"]:40000 > [2606:4700::1111]:443"
	for _, who := range []string{name, testnet.MACClient2} {
		checkExplained(t, lab,
			asked{[]string{"--from", who, "--to", "1.1.1.1"}, []string{from4, "by eth1 from " + testnet.MACClient2}},
			asked{[]string{"--from", who, "--to", "2606:4700::1111"}, []string{from6, "by eth1 from " + testnet.MACClient2}},
			asked{[]string{"--from", who, "--to", "bank.example"}, []string{n.IPv4.String() + ":40000 > 192.168.50.1:53"}},
		)
	}
	for _, b := range []badInput{
		{name: "another name", args: []string{"--from", "printer", "--to", "1.1.1.1"}, says: []string{"no device has this name, but there is " + name}},
		{name: "a MAC beside", args: []string{"--from", name, "--to", "1.1.1.1", "--mac", testnet.MACClient1}, says: []string{"leave --mac out"}},
		{name: "nobody's", args: []string{"--from", "02:00:00:00:00:99", "--to", "1.1.1.1"}, says: []string{"no IPv4 address of 02:00:00:00:00:99 is known", "--from ADDRESS --mac 02:00:00:00:00:99"}},
	} {
		t.Run(b.name, func(t *testing.T) {
			b.args, b.code = append([]string{"explain"}, b.args...), 2
			b.refused(t, runTorbpf(t, lab, b.args...))
		})
	}
}

func explainMarks(t *testing.T, lab *testnet.Lab) {
	mustTorbpf(t, lab, "exclude", "add", "--mark", "0x100")
	defer mustTorbpf(t, lab, "exclude", "del", "--mark", "0x100")
	checkExplained(t, lab,
		asked{words("--to 1.1.1.1 --mark 0x100"), []string{"mark 0x100", "verdict    direct", "exempt-mark", "the rule mark ", "routes it by eth0"}},
		asked{words("--to 1.1.1.1"), []string{"once Tor is ready: tor, tcp", "in prerouting before priority -120, gives it the mark 0x100"}},
		asked{words("--to 1.1.1.1 --proto udp --dport 9"), []string{"verdict    pending", "late-mark", "gives it the mark 0x100"}},
	)
	keptWithTor(t, lab, "1.1.1.1", asked{words("--to 1.1.1.1 --mark 0x100"), []string{"verdict    direct", "exempt-mark"}})
}

// keptWithTor asks while a rule keeps a destination with Tor: from what counts less, and
// from interfaces, but from no mark and no name.
func keptWithTor(t *testing.T, lab *testnet.Lab, destination string, all ...asked) {
	t.Helper()
	mustTorbpf(t, lab, "exclude", "add", destination, "--policy", "tor")
	checkExplained(t, lab, all...)
	mustTorbpf(t, lab, "exclude", "del", destination)
}

// explainTunnel: a LAN whose packets have no Ethernet header.
func explainTunnel(t *testing.T, lab *testnet.Lab) {
	changed([]string{"ip tuntap add tun7 mode tun", "ip addr add 10.77.0.1/24 dev tun7", "ip addr add fd77::1/64 dev tun7 nodad", "ip link set tun7 up"}, []string{"ip link del tun7"})(t, lab)
	mustTorbpf(t, lab, "attach", "tun7", "--no-wait")
	defer mustTorbpf(t, lab, "detach", "tun7")
	checkExplained(t, lab,
		asked{[]string{"--from", "10.77.0.5", "--to", "1.1.1.1", "--proto", "udp", "--dport", "443"}, []string{"by tun7\n", "quic", "ICMP port unreachable, from 1.1.1.1"}},
		asked{[]string{"--from", "10.77.0.5", "--to", "1.1.1.1", "--proto", "icmp"}, []string{"icmp", "prohibited, from 10.77.0.1"}},
		asked{[]string{"--from", "fd77::5", "--to", "2606:4700::1111"}, []string{"once Tor is ready: tor, tcp", "a reset, in the name of 2606:4700::1111"}},
		asked{[]string{"--from", "10.77.0.5", "--to", "bank.example"}, []string{"10.77.0.1:53", "DNS with SERVFAIL"}},
		asked{[]string{"--from", "fd77::5", "--to", "bank.example"}, []string{"[fd77::1]:53", "once Tor is ready: dns, dns-udp"}},
	)
}

// followAdvice types what explain says, and asks again.
func followAdvice(t *testing.T, lab *testnet.Lab) {
	question := append(words("--to 1.1.1.1 --proto udp --dport 443"), "--json")
	for _, want := range []struct{ before, after string }{{"quic", "direct-port"}, {"direct-port", "quic"}} {
		e := explainJSON(t, lab, question)
		if e.Reason != want.before || len(e.Change) == 0 {
			t.Fatalf("explained as %+v, want the reason %s and advice", e, want.before)
		}
		command := strings.Fields(e.Change[0].Command)
		if !slices.Equal(command[:2], []string{"sudo", "torbpf"}) {
			t.Fatalf("the advice is %v", command)
		}
		mustTorbpf(t, lab, command[2:]...)
		if e = explainJSON(t, lab, question); e.Reason != want.after {
			t.Errorf("after %v it is %s, want %s", command, e.Reason, want.after)
		}
	}
}

func explainJSON(t *testing.T, lab *testnet.Lab, question []string) router.Explanation {
	t.Helper()
	var e router.Explanation
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, append([]string{"explain"}, question...)...).stdout), &e); err != nil {
		t.Fatal(err)
	}
	if e.Schema != 1 || e.Packet.From != neverSeen {
		t.Errorf("explained as %+v", e)
	}
	return e
}

// explainMovesNothing: the device that all of the above was about has sent nothing.
func explainMovesNothing(t *testing.T, lab *testnet.Lab) {
	mustTorbpf(t, lab, "exclude", "add", "--device", "02:00:00:00:50:77")
	defer mustTorbpf(t, lab, "exclude", "del", "--device", "02:00:00:00:50:77")
	checkExplained(t, lab, asked{words("--to 1.1.1.1 --proto udp --dport 53 --mac 02:00:00:00:50:77"), []string{"direct-device"}})
	var status router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	for _, c := range status.Counters {
		if slices.Contains([]string{"quic", "ntp", "protocol", "private", "foreign-source", "direct-port", "onion-from-direct", "late-mark"}, c.Reason) {
			t.Errorf("counted: %+v", c)
		}
	}
	key := abi.DatapathAddress{Addr: netip.MustParseAddr(neverSeen).As16()}
	for _, name := range []string{abi.DatapathMapAllowances, abi.DatapathMapDirectHosts} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(t, lab), "maps", name), nil)
		if err != nil {
			t.Fatal(err)
		}
		if value, err := m.LookupBytes(key); err != nil || value != nil {
			t.Errorf("map %s knows %s: % x, %v", name, neverSeen, value, err)
		}
		m.Close()
	}
}

func explainBadInput(t *testing.T, lab *testnet.Lab) {
	for _, b := range []badInput{
		{name: "nothing", args: nil, says: []string{"which packet? give --to ADDRESS, and --from ADDRESS", "see `torbpf explain --help`"}},
		{name: "no destination", args: []string{"--from", neverSeen}, says: []string{"--to ADDRESS"}},
		{name: "a name for a device", args: []string{"--from", "printer", "--to", "1.1.1.1"}, says: []string{"no device has this name, and none has any"}},
		{name: "an address with a slip", args: words("--to 1.1.1.300"), says: []string{`"1.1.1.300" is neither an address nor a name`}},
		{name: "two families", args: words("--to 2606:4700::1111"), says: []string{"not of one family"}},
		{name: "no port", args: words("--to 1.1.1.1 --proto udp"), says: []string{"which port? name it with --dport"}},
		{name: "a port of what has none", args: words("--to 1.1.1.1 --proto icmp --dport 7"), says: []string{"protocol icmp has no ports"}},
		{name: "no protocol", args: words("--to 1.1.1.1 --proto quic"), says: []string{"not a protocol: write tcp, udp"}},
		{name: "no record", args: words("--to bank.example --type NOPE"), says: []string{"--type NOPE: no DNS record"}},
		{name: "no hardware address", args: words("--to 1.1.1.1 --mac 1"), says: []string{"not a hardware address"}},
		{name: "no mark", args: words("--to 1.1.1.1 --mark x"), says: []string{`--mark "x" is no mark`}},
		{name: "a type of what asks nothing", args: words("--to 1.1.1.1 --type AAAA"), says: []string{"--type is of a DNS query"}},
		{name: "a port with a name", args: words("--to bank.example --dport 443"), says: []string{"leave --dport out"}},
		{name: "a protocol with a name", args: words("--to bank.example --proto tcp"), says: []string{"leave --proto out"}},
		{name: "a name that no device asks for", args: words("--to m\u00fcnchen.de"), says: []string{"xn--"}},
		{name: "no LAN has it", args: []string{"--from", "1.2.3.4", "--to", "1.1.1.1"}, says: []string{"no LAN has the source 1.2.3.4", "eth1, eth2", "--lan"}},
		{name: "the router's own", args: []string{"--from", testnet.WANRouter4.String(), "--to", "1.1.1.1"}, says: []string{"is this machine's own", "--own instead of --from"}},
		{name: "the router's own loopback", args: []string{"--from", "127.0.0.1", "--to", "1.1.1.1"}, says: []string{"is this machine's own"}},
		{name: "any LAN may have it", args: []string{"--from", "fe80::7", "--to", "fd50::1"}, says: []string{"may come by any of eth1, eth2", "--lan"}},
		{name: "no LAN is called so", args: words("--to 1.1.1.1 --lan eth0"), says: []string{"--lan eth0", "which are eth1, eth2"}},
	} {
		t.Run(b.name, func(t *testing.T) {
			b.args, b.code = append([]string{"explain"}, b.args...), 2
			b.refused(t, runTorbpf(t, lab, b.args...))
		})
	}
	b := badInput{args: []string{"explain", "--own", "--to", "1.1.1.1"}, code: 3, says: []string{"is not on Tor", "torbpf attach --client"}}
	b.refused(t, runTorbpf(t, lab, b.args...))
}
