package loader

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// past reads what the guards remember, and until when that holds.
func past(t *testing.T, d *Datapath) (prefixes []netip.Prefix, left time.Duration) {
	t.Helper()
	now, err := kernel.BootTime()
	must(t, err)
	for _, name := range pastPrefixes {
		m, err := d.openMap(name)
		must(t, err)
		defer m.Close()
		must(t, eachPrefix(m, func(p netip.Prefix, deadline abi.DatapathDeadline) error {
			prefixes = append(prefixes, p)
			left = time.Duration(deadline.UntilNs) - now
			return nil
		}))
	}
	return prefixes, left
}

// TestSubnetsThatLANsHadAreRemembered for a while, unless an uplink has them.
func TestSubnetsThatLANsHadAreRemembered(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	if got, _ := past(t, d); len(got) > 0 {
		t.Errorf("before anything has changed it remembers %v", got)
	}

	moved := l.plan()
	moved.LANs[0].Prefixes = prefixes("192.168.51.0/24", "fe80::/10")
	moved.Local = []plan.LocalSubnet{{Prefix: netip.MustParsePrefix("192.168.51.0/24"), Index: l.lan.Attrs().Index, Name: "lan0"}}
	moved.Outside = prefixes("62.10.8.0/23")
	guards(t, d, moved) // is enough: they come first
	must(t, guards(t, d, moved).pin())
	got, left := past(t, d)
	if want := prefixes("192.168.50.0/24", "fd50::/64"); !slices.Equal(got, want) {
		t.Errorf("it remembers %v, want %v", got, want)
	}
	if left <= plan.CutTime-time.Minute || left > plan.CutTime {
		t.Errorf("it does so for another %v, want %v", left, plan.CutTime)
	}

	guards(t, d, moved) // nothing new: the time goes on
	if _, again := past(t, d); again >= left {
		t.Errorf("after a change that moved nothing it does so for another %v, before for %v", again, left)
	}
	moved.Outside = prefixes("192.168.48.0/20")
	guards(t, d, moved)
	if got, _ := past(t, d); !slices.Equal(got, prefixes("fd50::/64")) {
		t.Errorf("when an uplink has one of them it remembers %v", got)
	}
	m, err := d.openMap(abi.DatapathMapPast6Prefixes)
	must(t, err)
	defer m.Close()
	must(t, m.Put(prefixKey(netip.MustParsePrefix("fd50::/64")), abi.DatapathDeadline{UntilNs: 1}))
	guards(t, d, moved)
	if got, _ := past(t, d); len(got) > 0 {
		t.Errorf("when the time is over it remembers %v", got)
	}
}

// TestCutFlowsAreWrittenDown as the device saw them and as the WAN does.
func TestCutFlowsAreWrittenDown(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	m, err := d.openMap(abi.DatapathMapCutFlows)
	must(t, err)
	defer m.Close()
	over := flowKey(netip.MustParseAddrPort("192.168.50.9:1"), netip.MustParseAddrPort("62.10.7.7:1"), unix.IPPROTO_TCP)
	must(t, m.Put(over, abi.DatapathDeadline{UntilNs: 1}))

	device, router, server := netip.MustParseAddrPort("192.168.50.11:40000"), netip.MustParseAddrPort(wanAddr+":50000"), netip.MustParseAddrPort("62.10.7.7:443")
	flow := plan.Flow{Protocol: unix.IPPROTO_TCP, Src: device, Dst: server, ReplySrc: server, ReplyDst: router}
	ping := plan.Flow{Protocol: unix.IPPROTO_ICMP, Src: netip.AddrPortFrom(device.Addr(), 0), Dst: netip.AddrPortFrom(server.Addr(), 0)}
	left, err := d.AddCut([]plan.Flow{flow, ping})
	must(t, err)
	if left != 0 {
		t.Errorf("there was no room for %d", left)
	}
	now, err := kernel.BootTime()
	must(t, err)
	var found []abi.DatapathFlow
	var key abi.DatapathFlow
	var deadline abi.DatapathDeadline
	for entries := m.Iterate(); entries.Next(&key, &deadline); {
		found = append(found, key)
		if expired(deadline, now) || !expired(deadline, now+plan.CutTime) {
			t.Errorf("%v ends at %d, and it is %d", key, deadline.UntilNs, now)
		}
	}
	listed, err := d.Cut()
	must(t, err)
	for _, near := range []netip.AddrPort{device, router} {
		want := plan.Flow{Protocol: unix.IPPROTO_TCP, Src: near, Dst: server, ReplySrc: server, ReplyDst: near}
		if !slices.Contains(listed, want) {
			t.Errorf("listed are %v, without %v", listed, want)
		}
	}
	if len(found) != 2 || !slices.Contains(found, flowKey(device, server, unix.IPPROTO_TCP)) || !slices.Contains(found, flowKey(router, server, unix.IPPROTO_TCP)) {
		t.Errorf("written down are %v", found)
	}
}

// TestCutFlowsWithoutRoomAreCounted and cost nothing else.
func TestCutFlowsWithoutRoomAreCounted(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	apply(t, d, l.plan())
	small, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 40, ValueSize: 8, MaxEntries: 4, Flags: unix.BPF_F_NO_PREALLOC})
	must(t, err)
	defer small.Close()
	must(t, replacePin(d.mapPin(abi.DatapathMapCutFlows), small.Pin))
	var flows []plan.Flow
	for port := range uint16(5) {
		flows = append(flows, plan.Flow{
			Protocol: unix.IPPROTO_UDP,
			Src:      netip.AddrPortFrom(netip.MustParseAddr("fd50::11"), 1000+port), Dst: netip.MustParseAddrPort("[2600::1]:7"),
			ReplySrc: netip.MustParseAddrPort("[2600::1]:7"), ReplyDst: netip.AddrPortFrom(netip.MustParseAddr("fd50::11"), 1000+port),
		})
	}
	left, err := d.AddCut(flows)
	must(t, err)
	if left != 1 {
		t.Errorf("there was no room for %d of 5, want 1", left)
	}
}

// TestDeliveryGuardStopsCutPeers where neither nftables nor the uplink guard is there
// to keep the router from answering.
func TestDeliveryGuardStopsCutPeers(t *testing.T) {
	needNetfilter(t)
	l := newLab(t)
	d := l.open(t, false)
	must(t, guards(t, d, l.plan()).pin())
	heard := listen(t, wanAddr+":6000")
	say := func(from string) {
		t.Helper()
		must(t, l.server.do(func() error {
			conn, err := (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}).Dial("udp4", wanAddr+":6000")
			if err != nil {
				return err
			}
			_, err = conn.Write([]byte("still there?"))
			return errors.Join(err, conn.Close())
		}))
	}
	peer, other := serverAddr+":4000", serverAddr+":4001"
	say(peer)
	expectFrom(t, heard, serverAddr) // the way is open

	device := netip.MustParseAddrPort(clientAddr + ":6000")
	flow := plan.Flow{Protocol: unix.IPPROTO_UDP, Src: device, Dst: netip.MustParseAddrPort(peer), ReplySrc: netip.MustParseAddrPort(peer), ReplyDst: netip.MustParseAddrPort(wanAddr + ":6000")}
	_, err := d.AddCut([]plan.Flow{flow})
	must(t, err)
	say(peer)
	await(t, "the peer to be counted", func() bool {
		return packets(t, d, l.wan.Attrs().Index, abi.VerdictRefused, abi.ReasonCutPeer) == 1
	})
	say(other)
	must(t, heard.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, from, err := heard.ReadFrom(make([]byte, 64))
	must(t, err)
	if from.String() != other {
		t.Errorf("heard of %v, want %s only", from, other)
	}
}
