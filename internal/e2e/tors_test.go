package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
	"github.com/torbpf/torbpf/tor"
)

// torState is what status tells of one of several tors.
type torState struct {
	Alive, Ready   bool
	Onion4, Onion6 netip.Prefix
	Devices        int
}

// torStates asks status for all of them.
func torStates(t testing.TB, lab *testnet.Lab) []torState {
	t.Helper()
	var status struct {
		Tor struct{ Instances []torState }
	}
	out := mustTorbpf(t, lab, "status", "--json").stdout
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return status.Tor.Instances
}

// awaitTors waits until so many are ready.
func awaitTors(t testing.TB, lab *testnet.Lab, ready ...bool) []torState {
	t.Helper()
	var states []torState
	eventually(t, torPatience, fmt.Sprintf("tors that are ready as %v", ready), func() error {
		states = torStates(t, lab)
		for i := range max(len(states), len(ready)) {
			if len(states) != len(ready) || states[i].Ready != ready[i] {
				return fmt.Errorf("they are %+v", states)
			}
		}
		return nil
	})
	return states
}

// useTor gives a device a hardware address by which it uses one of two tors. What its kernel
// and the router know of its neighbours stays.
func useTor(t testing.TB, lab *testnet.Lab, n *testnet.Node, instance int) {
	t.Helper()
	link, err := n.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	before := link.Attrs().HardwareAddr
	set := func(mac net.HardwareAddr) {
		run(t, n, "ip", "link", "set", "eth0", "address", mac.String())
		run(t, lab.Router, "ip", "neigh", "flush", "dev", lan)
	}
	mac := slices.Clone(before)
	for abi.InstanceOf(abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: [6]byte(mac)}}, 2, func(int) bool { return true }) != instance {
		mac[4]++
	}
	set(mac)
	t.Cleanup(func() {
		out, err := n.Run(context.Background(), "ip", "link", "set", "eth0", "address", before.String())
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// streamsOf lists the targets of the streams that one of the tors has.
func streamsOf(t testing.TB, lab *testnet.Lab, folder string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := tor.Dial(ctx, tor.SocketPath(filepath.Join(stateDir(t, lab), folder)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, err := c.GetInfo(ctx, "stream-status")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for line := range strings.Lines(text) { // control-spec: ID status circuit target
		if fields := strings.Fields(line); len(fields) >= 4 && fields[1] == "SUCCEEDED" {
			targets = append(targets, fields[3])
		}
	}
	return targets
}

// onionAddress asks for the lab's onion service, and returns what tor maps it to.
func onionAddress(lab *testnet.Lab, n *testnet.Node, proto string) (netip.Addr, error) {
	reply, err := testnet.DNSQuery(n, n.Resolver, lab.Tor.Onion, "A", proto, patience)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range reply.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A)
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s for %s: %v", lab.Tor.Onion, n.Name, reply)
}

// countedAs is how many packets the LAN program has counted for a reason.
func countedAs(t testing.TB, lab *testnet.Lab, reason abi.Reason) uint64 {
	t.Helper()
	var status struct {
		Counters []struct {
			Reason  string
			Packets uint64
		}
	}
	out := mustTorbpf(t, lab, "status", "--json").stdout
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var n uint64
	for _, c := range status.Counters {
		if c.Reason == reason.String() {
			n += c.Packets
		}
	}
	return n
}

// torFolders are those of two tors.
var torFolders = []string{"tor", "tor-1"}

// TestDevicesShareSeveralTors: each has one for all that it does. When that dies, and nobody
// is there to start it anew, the device moves to another and comes back with it; nobody else
// notices, and nothing leaks.
func TestDevicesShareSeveralTors(t *testing.T) {
	lab := torLab(t)
	serveFlows(t, lab, testnet.Web4, testnet.Other4)
	devices := []*testnet.Node{lab.Client1, lab.Client2} // each uses the tor of its place
	servers := []netip.Addr{testnet.Web4, testnet.Other4}
	for i, n := range devices {
		useTor(t, lab, n, i)
	}
	capture := captureWAN(t, lab)
	attach(t, lab, lan, "--tor-instances", "2")
	states := awaitTors(t, lab, true, true)

	flows := make([]*flow, len(devices))
	addresses := make([]netip.Addr, len(devices))
	for i, n := range devices {
		flows[i] = openFlow(t, n, "tcp", at(servers[i], portFlows))
		for _, proto := range []string{"udp", "tcp"} {
			addr, err := onionAddress(lab, n, proto)
			if err != nil || !states[i].Onion4.Contains(addr) {
				t.Errorf("by %s %s is told %v (%v), want one of %v", proto, n.Name, addr, err, states[i].Onion4)
			}
			addresses[i] = addr
		}
		if err := fetch(n, "http://"+lab.Tor.Onion+"/", func(a netip.Addr) bool { return a == lab.Tor.OnionSource }); err != nil {
			t.Error(err)
		}
	}
	for i, folder := range torFolders {
		if got := streamsOf(t, lab, folder); !slices.Contains(got, at(servers[i], portFlows).String()) || slices.Contains(got, at(servers[1-i], portFlows).String()) {
			t.Errorf("tor %d has the streams %v, want that to %v alone", i, got, servers[i])
		}
	}
	for i, s := range torStates(t, lab) {
		if s.Devices != 1 {
			t.Errorf("tor %d has %d devices: %v", i, s.Devices, mustTorbpf(t, lab, "device", "list", "--json").stdout)
		}
	}
	checkExplainsTor(t, lab, devices[1], 1)

	killed := torPIDIn(t, lab, torFolders[1])
	kill(t, unix.SIGKILL, killed)
	begin := time.Now()
	eventually(t, fairly(t, 3*time.Second), "the gate of the tor that died to be shut", func() error {
		if torStates(t, lab)[1].Ready {
			return errors.New("it is open")
		}
		return nil
	})
	t.Logf("its device moved %v after its death", time.Since(begin).Round(time.Millisecond))
	forget(lab)
	checkByTor(t, lab, devices[1], testnet.Other4)
	checkExplainsTor(t, lab, devices[1], 0)
	before := countedAs(t, lab, abi.ReasonOnionMoved)
	if err := refusedAtOnce(devices[1], at(addresses[1], testnet.PortHTTP)); err != nil {
		t.Error(err)
	}
	if n := countedAs(t, lab, abi.ReasonOnionMoved); n == before {
		t.Error("an address of the tor that died was not refused as such")
	}
	if err := fetch(devices[1], "http://"+lab.Tor.Onion+"/", func(a netip.Addr) bool { return a == lab.Tor.OnionSource }); err != nil {
		t.Errorf("asked anew: %v", err)
	}
	if err := flows[0].echo(); err != nil {
		t.Errorf("the other device: %v", err)
	}
	if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "tor 1 is gone: its devices use the others") || strings.Contains(r.stdout, "clients are refused") {
		t.Errorf("status: %v", r)
	}
	sendStrays(t, devices[1])

	mustTorbpf(t, lab, attachArgs(lab, lan)...)
	awaitTors(t, lab, true, true)
	checkExplainsTor(t, lab, devices[1], 1)
	checkByTor(t, lab, devices[1], testnet.Other4)
	if err := flows[0].echo(); err != nil {
		t.Errorf("the other device, when the tor is back: %v", err)
	}
	checkServersSawExitsOnlyIfAny(t, lab)
	checkNoLeaks(t, capture)
}

// checkExplainsTor wants explain to say which tor a device uses.
func checkExplainsTor(t testing.TB, lab *testnet.Lab, n *testnet.Node, instance int) {
	t.Helper()
	r := mustTorbpf(t, lab, "explain", "--from", n.IPv4.String(), "--to", testnet.Web4.String())
	if want := fmt.Sprintf("redirects it to tor %d's TransPort, %d of the router", instance, 9040+100*instance); !strings.Contains(r.stdout, want) {
		t.Errorf("explain lacks %q: %v", want, r)
	}
}

// TestTheNumberOfTorsChanges: those that stay are not disturbed, those that do not end.
func TestTheNumberOfTorsChanges(t *testing.T) {
	lab := torLab(t)
	useTor(t, lab, lab.Client1, 0)
	useTor(t, lab, lab.Client2, 1)
	serveFlows(t, lab, testnet.Web4)
	attach(t, lab, lan, "--tor-instances", "2")
	awaitTors(t, lab, true, true)
	first := torPID(t, lab)
	f := openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows))
	moved := openFlow(t, lab.Client2, "udp", lab.Client2.Resolver)
	mustTorbpf(t, lab, attachArgs(lab, lan, "--tor-instances", "1")...)
	if pids := pidsNamed(t, lab, "tor"); !slices.Equal(pids, []int{first}) {
		t.Errorf("processes %v are left, want the first tor alone, %d", pids, first)
	}
	if err := f.echo(); err != nil {
		t.Errorf("a device of the tor that stays: %v", err)
	}
	// One that always asks from one port is not left with the tor that has ended.
	eventually(t, patience, "an answer to who asks from one port", func() error {
		return errors.Join(moved.send([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07example\x04test\x00\x00\x01\x00\x01")), moved.read(12))
	})
	checkByTor(t, lab, lab.Client2, testnet.Web4)
	mustTorbpf(t, lab, attachArgs(lab, lan, "--tor-instances", "3")...)
	awaitTors(t, lab, true, true, true)
	if pid := torPID(t, lab); pid != first {
		t.Errorf("the first tor is process %d now, was %d", pid, first)
	}
	mustTorbpf(t, lab, "detach", "--all")
	if pids := pidsNamed(t, lab, "tor"); len(pids) > 0 {
		t.Errorf("processes %v are left after detach", pids)
	}
}

// TestTheDaemonBringsATorBack that hangs; a device that always asks from one port asks another
// meanwhile, and its own again.
func TestTheDaemonBringsATorBack(t *testing.T) {
	lab := torLab(t)
	useTor(t, lab, lab.Client2, 1)
	attach(t, lab, lan, "--tor-instances", "2")
	states := awaitTors(t, lab, true, true)
	file := filepath.Join(t.TempDir(), "torbpf.toml")
	text := fmt.Sprintf("interfaces = [%q]\n[tor]\ninstances = 2\ntorrc = %q\n", lan, lab.ClientTorrcFile())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	startRun(t, lab, file)
	asks, err := lab.Client2.Dial(t.Context(), "udp", lab.Client2.Resolver.String())
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	query := new(dns.Msg).SetQuestion(dns.Fqdn(lab.Tor.Onion), dns.TypeA)
	told := func() (netip.Addr, error) {
		conn := &dns.Conn{Conn: asks}
		query.Id = dns.Id()
		if err := errors.Join(asks.SetDeadline(time.Now().Add(time.Second)), conn.WriteMsg(query)); err != nil {
			return netip.Addr{}, err
		}
		reply, err := conn.ReadMsg()
		if err == nil && len(reply.Answer) != 1 {
			err = fmt.Errorf("it is told %v", reply)
		}
		if err != nil {
			return netip.Addr{}, err
		}
		addr, _ := netip.AddrFromSlice(reply.Answer[0].(*dns.A).A)
		return addr.Unmap(), nil
	}
	hung := torPIDIn(t, lab, torFolders[1])
	for _, instance := range []int{1, 0, 1} {
		eventually(t, torPatience, fmt.Sprintf("an address of tor %d, asked from one port", instance), func() error {
			addr, err := told()
			if err == nil && !states[instance].Onion4.Contains(addr) {
				err = fmt.Errorf("it is told %v", addr)
			}
			return err
		})
		if torPIDIn(t, lab, torFolders[1]) == hung && instance == 1 {
			kill(t, unix.SIGSTOP, hung) // so it takes the daemon a while to start it anew
		}
	}
	awaitTors(t, lab, true, true)
}
