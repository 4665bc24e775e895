package model

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// torsOf runs the LAN program on a packet of each of so many devices, and returns which tor
// it sends them to.
func (o *objects) torsOf(t *testing.T, devices int, packet []byte) []int {
	t.Helper()
	out := make([]int, devices)
	for i := range out {
		mac := [6]byte{2, 0, 0, 7}
		binary.BigEndian.PutUint16(mac[4:], uint16(i))
		did := o.watch(t, "torbpf_lan", etherTo(routerMAC, mac, packet), skBuff{Ifindex: lanIndex})
		if did.action != actNext {
			t.Fatalf("device %d: the program returns %#x and counts %v", i, did.action, did.moved)
		}
		out[i] = o.mark.InstanceOf(did.mark)
	}
	return out
}

// TestDevicesStayWithTheirTor: when one goes its own devices alone move, to all of the
// others, and they come back when it does. DNS goes where TCP goes.
func TestDevicesStayWithTheirTor(t *testing.T) {
	enterNamespace(t)
	const tors, devices, gone = 4, 400, 2
	o := loadTors(t, 24, tors)
	p := home()
	o.set(p)
	syn := ip(laptop4, web4, tcp(40000, 443, tcpSYN))
	before := o.torsOf(t, devices, syn)
	for _, other := range [][]byte{
		ip(laptop6, web6, tcp(40000, 443, tcpSYN)), ip(laptop4, web4, udp(40000, 53, dnsQuery()...)), ip(laptop4, web4, tcp(40000, 53, tcpSYN)),
	} {
		for i, tor := range o.torsOf(t, devices, other) {
			if tor != before[i] {
				t.Fatalf("device %d uses tor %d, and %d for % x", i, before[i], tor, other)
			}
		}
	}
	checkShares(t, "of all", before, devices/tors)
	p.Shut = []int{gone}
	o.set(p)
	var moved []int
	for i, tor := range o.torsOf(t, devices, syn) {
		switch {
		case before[i] == gone && tor == gone:
			t.Errorf("device %d stays with a tor that is gone", i)
		case before[i] == gone:
			moved = append(moved, tor)
		case tor != before[i]:
			t.Errorf("device %d moves from tor %d to %d, and %d is gone", i, before[i], tor, gone)
		}
	}
	checkShares(t, "of those that moved", moved, len(moved)/(tors-1))
	p.Shut = nil
	o.set(p)
	for i, tor := range o.torsOf(t, devices, syn) {
		if tor != before[i] {
			t.Errorf("device %d was of tor %d before, and is of %d when all are back", i, before[i], tor)
		}
	}
}

// checkShares wants about the same share for each tor that has any.
func checkShares(t *testing.T, what string, tors []int, share int) {
	t.Helper()
	count := make(map[int]int)
	for _, tor := range tors {
		count[tor]++
	}
	for tor, n := range count {
		if n < share/2 || n > 2*share {
			t.Errorf("%s tor %d has %d devices, of %d; want about %d", what, tor, n, len(tors), share)
		}
	}
}

// TestAnOnionAddressIsOfOneTor: one that another gave out is refused when something begins
// there, by both families; what has begun goes on.
func TestAnOnionAddressIsOfOneTor(t *testing.T) {
	enterNamespace(t)
	const tors = 3
	o := loadTors(t, 24, tors)
	p := home()
	o.set(p)
	own := o.torsOf(t, 1, ip(laptop4, web4, tcp(40000, 443, tcpSYN)))[0]
	mac := [6]byte{2, 0, 0, 7}
	for part := range abi.MaxInstances {
		for _, c := range []struct {
			all netip.Prefix
			src string
		}{{p.Onion4, laptop4}, {p.Onion6, laptop6}} {
			dst := config.OnionPart(c.all, part, tors).Addr().Next().String()
			o.forget()
			began := o.watch(t, "torbpf_lan", etherTo(routerMAC, mac, ip(c.src, dst, tcp(40000, 80, tcpSYN))), skBuff{Ifindex: lanIndex})
			reason := abi.ReasonOnionMoved
			if part == own {
				reason = abi.ReasonOnionTCP
			}
			if began.moved[counted{lanIndex, reason.Verdict(), reason}].Packets != 1 {
				t.Errorf("%s, a device of tor %d: counted as %v, want %s", dst, own, began.moved, reason)
			}
			if answered := began.action == actRedirect; answered != (part != own) {
				t.Errorf("%s, a device of tor %d: the program returns %#x", dst, own, began.action)
			}
			goesOn := o.watch(t, "torbpf_lan", etherTo(routerMAC, mac, ip(c.src, dst, tcp(40000, 80, tcpACK))), skBuff{Ifindex: lanIndex})
			if goesOn.action != actNext {
				t.Errorf("%s: what has begun there is refused: %v", dst, goesOn.moved)
			}
		}
	}
}

// TestOneTorNeedsNoInstance: its devices have none in their marks, and all .onion addresses
// are its own.
func TestOneTorNeedsNoInstance(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	o.set(home())
	for i, tor := range o.torsOf(t, 20, ip(laptop4, "10.255.0.5", tcp(40000, 80, tcpSYN))) {
		if tor != 0 {
			t.Errorf("device %d uses tor %d", i, tor)
		}
	}
}
