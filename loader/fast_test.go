package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

// TestFastPathForwards as the kernel does: other addresses, a hop less, and checksums that are
// right whoever completes them.
func TestFastPathForwards(t *testing.T) {
	l := newFastLab(t)
	for _, offload := range []bool{true, false} {
		l.offload(t, offload)
		for _, network := range []string{"udp4", "udp6", "tcp4", "tcp6"} {
			t.Run(fmt.Sprintf("%s, offload %t", network, offload), func(t *testing.T) { l.checkForwards(t, network) })
		}
	}
}

// offload has the devices leave checksums to the card, or not. The router completes them, or
// nobody would.
func (l *fastLab) offload(t *testing.T, on bool) {
	t.Helper()
	for _, ns := range []namespace{l.client, l.server} {
		must(t, ns.do(func() error { return setFeature("peer", setTxChecksum, on) }))
	}
	for _, name := range []string{"lan0", "wan0"} {
		must(t, setFeature(name, setTxChecksum, false))
	}
}

// TestFastPathSendsFrames of UDP, where XDP programs are, as it sends packets; and packets
// where it cannot tell what a frame's checksum has to be.
func TestFastPathSendsFrames(t *testing.T) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(t, err)
	defer stats.Close()
	l := newFastLab(t)
	l.useFrames(t)
	for _, offload := range []bool{true, false} {
		l.offload(t, offload)
		for _, network := range []string{"udp4", "udp6", "tcp4", "tcp6"} {
			t.Run(fmt.Sprintf("%s, offload %t", network, offload), func(t *testing.T) {
				k := l.checkForwards(t, network)
				before := runs(t, l.d, programLAN)
				for range 100 {
					k.say(t, 100)
				}
				frames := runs(t, l.d, programLAN)-before < 100
				if want := network[:3] == "udp" && !offload; frames != want {
					t.Errorf("it goes as frames: %t, want %t", frames, want)
				}
			})
		}
	}
}

// TestFastPathLeavesFramesOfOthers, which an interface sees that is promiscuous, to others.
func TestFastPathLeavesFramesOfOthers(t *testing.T) {
	l := newFastLab(t)
	l.useFrames(t)
	l.offload(t, false)
	k := l.talk(t, "udp4")
	run(t, "ip link set lan0 promisc on")
	send := func(hardware net.HardwareAddr) (fast bool) {
		t.Helper()
		before := l.fast(t)
		d := datagram{unix.IPPROTO_UDP, netip.MustParseAddrPort(k.server.LocalAddr().String())}
		must(t, l.sendTo(hardware, k.likeThis(d.bytes(netip.MustParseAddr(clientAddr)))))
		awaitJiffy()
		return l.fast(t).Out > before.Out
	}
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	await(t, "a frame of ours between two of others", func() bool {
		k.say(t, 64)
		first, ours, last := send(other), send(l.lan.Attrs().HardwareAddr), send(other)
		if first || last {
			t.Fatal("a frame that is for somebody else was forwarded")
		}
		return ours
	})
}

func (l *fastLab) checkForwards(t *testing.T, network string) *talk {
	t.Helper()
	const times = 50
	k := l.talk(t, network)
	before, counted := l.fast(t), l.direct(t)
	for range times {
		k.say(t, 100)
	}
	after := l.fast(t)
	if out, in := after.Out-before.Out, after.In-before.In; out < times*9/10 || in < times*9/10 {
		t.Errorf("of %d packets each way %d and %d were fast", times, out, in)
	}
	if n := l.direct(t) - counted; n < times || network[:3] == "udp" && n != times {
		t.Errorf("%d packets of the LAN were counted, want %d", n, times)
	}
	hidden, near, far := wanAddr, clientAddr, directAddr
	if network[3] == '6' {
		hidden, near, far = wanAddr6, clientAddr6, fastAddr6
	}
	checkWire(t, k.heard, hidden, far)
	checkWire(t, k.answered, far, near)
	return k
}

// direct is how many packets of the LAN were counted as such.
func (l *fastLab) direct(t *testing.T) uint64 {
	t.Helper()
	return packets(t, l.d, l.lan.Attrs().Index, abi.VerdictDirect, abi.ReasonDirectDestination)
}

func checkWire(t *testing.T, w *wire, src, dst string) {
	t.Helper()
	seen := w.read()
	if len(seen) == 0 {
		t.Error("nothing was seen")
	}
	for _, p := range seen {
		if p.src.String() != src || p.dst.String() != dst || p.hops != 63 || !p.right {
			t.Fatalf("on the wire: %+v; want it from %s to %s with 63 hops and right", p, src, dst)
		}
	}
}

// TestFastPathEndsConnections: their beginning and end are conntrack's to see, and it finds
// nothing of them invalid.
func TestFastPathEndsConnections(t *testing.T) {
	l := newFastLab(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		k := l.talk(t, network)
		k.say(t, 8<<20)
		must(t, k.client.(*net.TCPConn).CloseWrite())
		must(t, k.server.SetReadDeadline(time.Now().Add(testnet.Patience(10*time.Second))))
		if n, err := k.server.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the server hears no end: %d, %v", network, n, err)
		}
		must(t, k.server.Close())
		if n, err := k.client.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the client hears no end: %d, %v", network, n, err)
		}
		await(t, "conntrack to see the end", func() bool { return !isTracked(t, network) })
	}
}

// isTracked tells whether conntrack takes a connection of TCP for established.
func isTracked(t *testing.T, network string) bool {
	t.Helper()
	const established = 3 // linux/netfilter/nf_conntrack_tcp.h
	family := netlink.InetFamily(unix.AF_INET)
	if network == "tcp6" {
		family = unix.AF_INET6
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
	must(t, err)
	return slices.ContainsFunc(flows, func(f *netlink.ConntrackFlow) bool {
		state, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		return ok && state.State == established
	})
}

// TestFastPathEndsWithPolicy: what is direct no more stops at once, and so do its answers.
func TestFastPathEndsWithPolicy(t *testing.T) {
	l := newFastLab(t)
	k := l.talk(t, "udp4")
	l.p.Rules = nil
	l.attach(t)
	k.heard.read()
	k.answered.read()
	for range 20 {
		_, _ = k.client.Write([]byte("refused")) // of which it is told
		_, err := k.server.Write([]byte("answer"))
		must(t, err)
	}
	await(t, "answers by the slow path", func() bool { return len(k.answered.read()) > 0 })
	if f := l.fast(t); f.Out+f.In > 0 {
		t.Errorf("the fast path goes on: %+v", f)
	}
	if seen := k.heard.read(); len(seen) > 0 {
		t.Errorf("it went on to the server: %+v", seen)
	}
}

// TestFastPathFollowsTheUsersRules: what they drop later is dropped after a second, and at
// once when somebody says that they have changed.
func TestFastPathFollowsTheUsersRules(t *testing.T) {
	l := newFastLab(t)
	k := l.talk(t, "udp4")
	run(t, "nft insert rule inet users forward oifname wan0 drop")
	await(t, "the rule to be followed", func() bool {
		k.heard.read()
		_, err := k.client.Write([]byte("dropped"))
		must(t, err)
		before := l.fast(t)
		_, err = k.client.Write([]byte("dropped"))
		must(t, err)
		return l.fast(t).Out == before.Out && len(k.heard.read()) == 0
	})
	run(t, "nft flush chain inet users forward")
	before := l.fast(t)
	await(t, "the flow to be fast again", func() bool {
		k.say(t, 64)
		return l.fast(t).Out > before.Out+5
	})
	run(t, "nft insert rule inet users forward oifname wan0 drop")
	now, err := kernel.Monotonic()
	must(t, err)
	must(t, l.d.PermitFast(now, time.Hour))
	awaitJiffy()
	k.heard.read()
	before = l.fast(t)
	for range 20 {
		_, err := k.client.Write([]byte("dropped"))
		must(t, err)
	}
	if after := l.fast(t); after.Out != before.Out || len(k.heard.read()) > 0 {
		t.Errorf("what was proven before counts still: %+v, then %+v", before, after)
	}
}

// awaitJiffy returns when another jiffy has begun: what was checked holds for one.
func awaitJiffy() {
	var begin, now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &begin)
	for now = begin; now == begin; {
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now)
	}
}

// TestFastPathNeedsAPermit, and ends with it.
func TestFastPathNeedsAPermit(t *testing.T) {
	l := newFastLab(t)
	k := l.talk(t, "udp4")
	must(t, l.d.PermitFast(0, 0))
	awaitJiffy()
	before := l.fast(t)
	for range 20 {
		k.say(t, 64)
	}
	if after := l.fast(t); after.Permitted || after.Out != before.Out || after.In != before.In {
		t.Errorf("without a permit: %+v, then %+v", before, after)
	}
}

// TestFastPathIsProvenWithinABudget: a CPU proves no more in a second than its table holds, so that
// more flows than that cost what they do without a fast path.
func TestFastPathIsProvenWithinABudget(t *testing.T) {
	l := newFastLab(t)
	k := l.talk(t, "udp4")
	m, err := l.d.openMap(abi.FastMapFastBudgets)
	must(t, err)
	defer m.Close()
	flows, err := l.d.openMap(abi.FastMapFastFlows)
	must(t, err)
	defer flows.Close()
	each := time.Second / time.Duration(flows.MaxEntries())
	spendUntil := func(at time.Duration) { // on each CPU
		must(t, m.Put(uint32(0), slices.Repeat([]uint64{uint64(at)}, ebpf.MustPossibleCPU())))
	}
	now, err := kernel.Monotonic()
	must(t, err)
	begin := now - time.Second/2
	spendUntil(begin)
	const times = 20
	for i := range times { // each is longer, so has to be proven
		k.say(t, 100+i)
	}
	var spent []uint64
	must(t, m.Lookup(uint32(0), &spent))
	var proofs int
	for _, at := range spent {
		proofs += int((time.Duration(at) - begin) / each)
	}
	if proofs < 2*times || proofs > 4*times {
		t.Errorf("%d packets that had to be proven took %d proofs", 2*times, proofs)
	}

	spendUntil(now + time.Hour)
	await(t, "what was proven to be over", func() bool {
		before := l.fast(t)
		k.say(t, 64)
		return l.fast(t) == before
	})
	spendUntil(0)
	before := l.fast(t)
	await(t, "the flow to be proven again", func() bool {
		k.say(t, 64)
		return l.fast(t).Out > before.Out+5
	})
}

// TestFastPathKnowsItsOwn: what is unlike the packet that has proven the way goes the slow one.
func TestFastPathKnowsItsOwn(t *testing.T) {
	l := newFastLab(t)
	k := l.talk(t, "udp4")
	s := l.newSender(t)
	port := k.client.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	like := datagram{unix.IPPROTO_UDP, netip.AddrPortFrom(netip.MustParseAddr(directAddr), fastPort)}
	isFast := func(name string, change func([]byte) []byte) bool {
		t.Helper()
		before, counted := l.fast(t), l.direct(t)
		must(t, s.sendAs(like, port, change))
		await(t, name+" to be counted", func() bool { return l.direct(t) > counted })
		return l.fast(t).Out > before.Out
	}
	same := func(ip []byte) []byte { return ip }
	for _, c := range []struct {
		name   string
		fast   bool
		change func(ip []byte) []byte
	}{
		{"ECN", true, func(ip []byte) []byte { ip[1] |= 3; return ip }},
		{"another hop limit", false, func(ip []byte) []byte { ip[8] = 63; return ip }},
		{"the last hop", false, func(ip []byte) []byte { ip[8] = 1; return ip }},
		{"another traffic class", false, func(ip []byte) []byte { ip[1] = 0xb8; return ip }},
		{"longer", false, func(ip []byte) []byte { return append(ip, make([]byte, 1000)...) }},
		{"a fragment", false, func(ip []byte) []byte { ip[6] = 0x20; return ip }},
		{"options", false, func(ip []byte) []byte {
			ip[0] = 0x46
			return append(ip[:20:20], append([]byte{1, 1, 1, 0}, ip[20:]...)...)
		}},
		{"another port", false, func(ip []byte) []byte { ip[21]++; return ip }},
	} {
		// Between two that are fast, so that what this one is does not depend on the time.
		await(t, "packets around "+c.name, func() bool {
			k.say(t, 8)
			isFast("alike", same)
			first, now, last := isFast("alike", same), isFast(c.name, c.change), false
			if !c.fast && now {
				t.Fatalf("%s: it is fast", c.name)
			}
			isFast("alike", same) // it may have to prove its way anew
			last = isFast("alike", same)
			return first && last && now == c.fast
		})
	}
}

// likeThis gives a datagram the port of the talk's client.
func (k *talk) likeThis(ip []byte) []byte {
	binary.BigEndian.PutUint16(ip[20:], k.client.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	return ip
}

// sendTo sends a packet from the client to a hardware address.
func (l *fastLab) sendTo(hardware net.HardwareAddr, ip []byte) error {
	return l.client.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{8, 0}), Ifindex: l.clientIf, Halen: 6}
		copy(to.Addr[:], hardware)
		return unix.Sendto(fd, ip, 0, to)
	})
}

// sendAs sends a datagram from a port, changed.
func (s sender) sendAs(d datagram, port uint16, change func([]byte) []byte) error {
	ip := d.bytes(s.from)
	ip[20], ip[21] = byte(port>>8), byte(port)
	ip = change(ip)
	ip[24], ip[25] = byte((len(ip)-20)>>8), byte(len(ip)-20)
	return unix.Sendto(s.fd, ip, 0, &unix.SockaddrInet4{Addr: d.to.Addr().As4()})
}
