package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// chainClientToItself counts what goes to this machine itself.
const chainClientToItself = "client_to_itself"

// The counters of what the guard has let pass; what it has not is in those of drops.
const (
	countClientTor    = "client_tor"
	countClientDirect = "client_direct"
	countClientLocal  = "client_local"
	countClientOfTor  = "client_of_tor"
)

// OwnTraffic is what this machine itself has sent, by what has become of it.
type OwnTraffic struct {
	Tor     Count // given to Tor, and to the sentry, the short way or redirected
	Direct  Count // with answers to who came in from outside
	Local   Count // to the links, the subnets behind them and devices of LANs
	Refused Count // by nftables
	OfTor   Count // what tor itself has sent for all of them
}

// Count is of packets as the kernel hands them on, with their IP headers.
type Count struct{ Packets, Bytes uint64 }

func (c *Count) add(more *expr.Counter) {
	c.Packets += more.Packets
	c.Bytes += more.Bytes
}

// countOwn lets pass and counts, which nobody does for what exec alone runs.
func (b *builder) countOwn(counter string) []expr.Any {
	if !b.Client.All {
		return accept()
	}
	return slices.Concat(counted(counter), accept())
}

// clientToItself counts what has been led to Tor: redirected, or to TransPort as it connected.
// What else goes to this machine itself goes nowhere, and is not counted.
func (b *builder) clientToItself() []chain {
	if !b.Client.All {
		return nil
	}
	return []chain{subChain(chainClientToItself,
		newRule("redirected", b.blocked(), counted(countClientTor), accept()),
		newRule("by the short way", protocol(unix.IPPROTO_TCP), toPort(b.Ports.Trans), counted(countClientTor)))}
}

// clientPassed counts what leaves by its class alone. It comes behind all that would stop it, so
// that no packet is counted twice.
func (b *builder) clientPassed() []rule {
	if !b.Client.All {
		return nil
	}
	var rules []rule
	if b.hasLANs() {
		rules = append(rules, newRule("to a device, by its LAN", toLAN(), b.countOwn(countClientLocal)))
	}
	tor := b.Mark.Bits(uint32(abi.VerdictDirect), abi.OwnBesideTor)
	either := b.Mark.ClassMask() | b.Mark.Bits(0, abi.OwnBesideTor)
	return append(rules,
		newRule("tor and its transports, which carry what others send", markIs(tor, either), b.countOwn(countClientOfTor)),
		newRule("nobody has stopped it", counted(countClientDirect)))
}

// ReadOwnTraffic reads the counters; found is false while nobody counts.
func ReadOwnTraffic() (t OwnTraffic, found bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return t, false, fmt.Errorf("open nftables: %w", err)
	}
	if table, err := findTable(conn); err != nil || table == nil {
		return t, false, err
	}
	objects, err := listObjects(conn)
	if err != nil {
		return t, false, err
	}
	into := map[string]*Count{countClientTor: &t.Tor, countClientDirect: &t.Direct, countClientLocal: &t.Local, countClientOfTor: &t.OfTor}
	for _, name := range clientDrops() {
		into[name] = &t.Refused
	}
	for name, count := range into {
		if o := objects[name]; o != nil {
			if c, ok := o.Obj.(*expr.Counter); ok {
				count.add(c)
			}
		}
	}
	return t, objects[countClientTor] != nil, nil
}
