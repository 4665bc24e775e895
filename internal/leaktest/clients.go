package leaktest

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// Group is a column of the table: probes of one kind.
type Group int

// The groups in the order of the columns.
const (
	GroupTCP Group = iota
	GroupUDP
	GroupQUIC
	GroupDNS
	GroupICMP
	GroupFragments
	GroupFlags
	GroupProtocols
	GroupForged
	GroupFrames
	groups
)

func (g Group) String() string {
	return [groups]string{"tcp", "udp", "quic", "dns", "icmp", "frag", "flags", "proto", "forged", "frames"}[g]
}

// Probe is one packet.
type Probe struct {
	Name  string
	Group Group

	forged bool // its source is not the device's
	frame  []byte
	packet []byte // what the frame holds
}

// Tally counts probes that were sent.
type Tally struct {
	groups [groups]atomic.Int64
	v6     atomic.Int64
}

func (t *Tally) add(g Group, v6 bool) {
	t.groups[g].Add(1)
	if v6 {
		t.v6.Add(1)
	}
}

// Total is the number of probes of all groups.
func (t *Tally) Total() int64 {
	var total int64
	for g := range groups {
		total += t.groups[g].Load()
	}
	return total
}

// hush is how long a device waits for an answer that it should not get.
const hush = 250 * time.Millisecond

// chunk frames go out between two pauses of traffic that must leave the processor
// to others.
const chunk = 32

// Send sends probes of a node one after the other; pause is called between chunks.
func Send(n *testnet.Node, probes []Probe, tally *Tally, pause func()) error {
	for begin := 0; begin < len(probes); begin += chunk {
		part := probes[begin:min(begin+chunk, len(probes))]
		frames := make([][]byte, len(part))
		for i, p := range part {
			frames[i] = p.frame
			tally.add(p.Group, p.packet[0]>>4 == 6)
		}
		if err := n.SendFrames("eth0", frames); err != nil {
			return err
		}
		pause()
	}
	return nil
}

// sender is who tries everything.
type sender interface {
	node() *testnet.Node
	probes(round int) []Probe
	send(probes []Probe, tally *Tally, pause func()) error // without pause: in a flood
	once(round int, tally *Tally) error                    // everything, in a battery
	dial(round int, tally *Tally)                          // what programs do
}

// device is one of a LAN.
type device struct{ n *testnet.Node }

func (d device) node() *testnet.Node { return d.n }

func (d device) probes(round int) []Probe { return Probes(d.n, round) }

func (d device) send(probes []Probe, tally *Tally, pause func()) error {
	return Send(d.n, probes, tally, pause)
}

func (d device) once(round int, tally *Tally) error {
	return Send(d.n, d.probes(round), tally, func() {})
}

func (d device) dial(round int, tally *Tally) { dialAll(d.n, round, tally) }

// dials is what a program tries by sockets of its own: one connection or question.
type dial struct {
	name   string
	group  Group
	server netip.Addr
	try    func()
}

// dials are what programs do: connect and look up, by TCP and UDP.
func dials(n *testnet.Node, round int) []dial {
	var out []dial
	for _, src := range []netip.Addr{n.IPv4, n.IPv6} {
		for _, server := range asked(src) {
			if server.IsMulticast() || server.IsLinkLocalUnicast() {
				continue
			}
			for _, proto := range []string{"udp", "tcp"} {
				name := fmt.Sprintf("dial-%s-r%d-%s.%s", n.Name, round, label(server), testnet.Zone)
				out = append(out, dial{"question by " + proto + " to " + server.String(), GroupDNS, server, func() {
					_, _ = testnet.DNSQuery(n, at(server, testnet.PortDNS), name, "A", proto, hush)
				}})
			}
		}
	}
	for _, server := range []netip.AddrPort{
		at(testnet.Web4, testnet.PortHTTP), at(testnet.Web6, testnet.PortHTTP),
		at(testnet.Other4, testnet.PortHTTPS), at(testnet.Other6, testnet.PortHTTPS),
		at(testnet.Other4, testnet.PortEcho), at(testnet.Other6, testnet.PortEcho),
	} {
		for proto, group := range map[string]Group{"tcp": GroupTCP, "udp": GroupUDP} {
			if proto == "udp" && server.Port() == testnet.PortHTTPS {
				group = GroupQUIC
			}
			out = append(out, dial{"connection by " + proto + " to " + server.String(), group, server.Addr(), func() {
				_ = testnet.Echo(n, proto, server, hush)
			}})
		}
	}
	return out
}

// dialAll tries all at once.
func dialAll(n *testnet.Node, round int, tally *Tally) {
	var wg sync.WaitGroup
	for _, d := range dials(n, round) {
		tally.add(d.group, d.server.Is6())
		wg.Go(d.try)
	}
	wg.Wait()
}

// Kinds is how many kinds of probe a device sends in one battery.
func Kinds(n *testnet.Node) int { return len(Probes(n, 0)) + len(dials(n, 0)) }
