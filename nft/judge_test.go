package nft

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// first is the first packet of what is asked, as the kernel routes it.
func (l *clientLab) first(mark int, network, to string) OwnPacket {
	l.t.Helper()
	p := OwnPacket{Mark: uint32(mark), Hops: 64, Protocol: map[string]uint8{"tcp": 6, "udp": 17, "ping": 1}[network]}
	if network == "ping" {
		p.Dst = netip.AddrPortFrom(netip.MustParseAddr(to), 0)
		if p.Dst.Addr().Is6() {
			p.Protocol = unix.IPPROTO_ICMPV6
		}
	} else {
		p.Dst = netip.MustParseAddrPort(to)
	}
	l.routed(&p)
	return p
}

// routed asks the kernel for the interface and the source.
func (l *clientLab) routed(p *OwnPacket) {
	l.t.Helper()
	routes, err := netlink.RouteGetWithOptions(p.Dst.Addr().AsSlice(), &netlink.RouteGetOptions{Mark: p.Mark})
	if err != nil || len(routes) == 0 {
		l.t.Fatalf("%s: %v", p.Dst, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		l.t.Fatal(err)
	}
	src, _ := netip.AddrFromSlice(routes[0].Src)
	p.Interface, p.Src = link.Attrs().Name, netip.AddrPortFrom(src.Unmap(), 40000)
}

// mustForetell wants the judge to have known what a program gets, where nobody else's rules
// have a say.
func (l *clientLab) mustForetell(w want) {
	l.t.Helper()
	if l.judge == nil {
		return
	}
	fate, err := l.judge.Judge(l.first(w.mark, w.network, w.to), time.Now())
	if err != nil {
		l.t.Errorf("%s to %s: %v", w.network, w.to, err)
		return
	}
	told := "passes"
	switch {
	case fate.Port != 0:
		told = fmt.Sprintf("to port %d", fate.Port)
	case fate.Reset:
		told = refusedTCP
	case !fate.Passed:
		told = refusedUDP
	}
	got := "passes"
	switch {
	case strings.HasPrefix(w.answer, "trans "):
		got = "to port 9040"
	case w.answer == "sentry":
		got = "to port 9054"
	case w.answer == refusedTCP, w.answer == refusedUDP:
		got = w.answer
	}
	if told != got {
		l.t.Errorf("%s to %s, mark %#x: judged that it %s (%s, %q), but it gets %q", w.network, w.to, w.mark, told, fate.Reason, fate.Comment, w.answer)
	}
	if fate.Reason == abi.ReasonNone && told != "passes" {
		l.t.Errorf("%s to %s, mark %#x: judged without a reason", w.network, w.to, w.mark)
	}
}

// dice make plans and packets.
type dice struct{ *rand.Rand }

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func (d dice) addr() netip.Addr {
	return netip.MustParseAddr(pick(d, site4, site6, direct4, direct6, holed4, lasting4, vpn4, resolver4, near4, dmz4, dmz6, outside4,
		onion4, onion6, stub, "127.0.0.1", "::1", wan4, wan6, lan4, "10.1.2.3", "fd99::7", "169.254.9.9", client4, client6))
}

func (d dice) prefix() netip.Prefix {
	a := d.addr()
	p, _ := a.Prefix(pick(d, a.BitLen(), a.BitLen(), a.BitLen()-8, a.BitLen()/2))
	return p
}

func (d dice) port() uint16 { return pick[uint16](d, 22, 53, 80, 123, 443, 853, 1900, 9040, 9054) }

// plan is one that might be.
func (d dice) plan(l *clientLab) *plan.Plan {
	p := l.plan()
	p.LocalMode = pick(d, config.LocalConnected, config.LocalConnected, config.LocalReserved, config.LocalNone)
	c := p.Client
	c.All = d.IntN(5) > 0
	c.ProxyPort = pick[uint16](d, 0, 80)
	c.Direct, c.Rules, c.Exits = nil, nil, nil
	if p.LocalMode == config.LocalNone {
		c.Local = nil
	}
	var direct []netip.Prefix
	for range d.IntN(4) {
		direct = append(direct, d.prefix())
	}
	for _, prefix := range config.MergePrefixes(direct) {
		o := plan.Opening{Prefix: prefix}
		if d.IntN(3) == 0 {
			o.Ends, o.Until = 1, time.Now().Add(pick(d, -time.Hour, time.Hour))
		}
		c.Direct = append(c.Direct, o)
	}
	for range d.IntN(5) {
		e := config.Entry{Kind: config.KindPort, Client: true, Service: config.Service{Protocol: pick[uint8](d, 6, 17, config.ProtocolICMP)}}
		if e.Service.Protocol != config.ProtocolICMP {
			e.Service.Port = d.port()
		}
		if d.IntN(2) == 0 {
			e.Prefix = d.prefix()
		}
		r := config.Rule{Entry: e, Policy: pick(d, config.PolicyDirect, config.PolicyDirect, config.PolicyTor)}
		if d.IntN(3) == 0 {
			r.Until = time.Now().Add(pick(d, -time.Hour, time.Hour))
		}
		if d.IntN(6) == 0 {
			r.Beneath = &config.Rule{Policy: config.PolicyTor}
		}
		c.Rules = append(c.Rules, r)
	}
	if d.IntN(2) == 0 {
		c.Rules = append(c.Rules, config.Direct(config.Entry{Kind: config.KindMark, Client: true, Mark: config.Mark{Value: markUser, Mask: 0x00ffffff}}))
	}
	if d.IntN(2) == 0 {
		c.Rules = append(c.Rules, config.Direct(config.Entry{Kind: config.KindInterface, Client: true, Interface: "dmz0"}))
		c.Exits = []plan.Exit{{Name: "dmz0", Rule: len(c.Rules) - 1}}
	}
	return p
}

// packet is one that might be sent by an ordinary socket.
func (d dice) packet(l *clientLab) OwnPacket {
	p := OwnPacket{
		Dst: netip.AddrPortFrom(d.addr(), d.port()), Protocol: pick[uint8](d, 6, 17), Hops: 64,
		Mark: pick[uint32](d, 0, 0, 0, markUser, markUser+1, markDirect, markDirect|0xf0000000, markInbound, markTor, markTor|markUser, 0x02000000, 0x0c000000),
	}
	l.routed(&p)
	return p
}

// watchSent has the kernel note, behind all chains, each packet by the port that it is from.
const watchSent = `
table inet watch
delete table inet watch
table inet watch {
	set sent {
		type inet_service . mark . ifname . inet_service
		flags dynamic
		size 65535
	}
	chain sent {
		type filter hook postrouting priority 500;
		meta l4proto udp iif 0 add @sent { th sport . meta mark . oifname . th dport }
		tcp flags & (syn | ack) == syn iif 0 add @sent { th sport . meta mark . oifname . th dport }
	}
}`

// sent reads what was noted: mark, interface and destination port, by the port it is from.
func (l *clientLab) sent() map[uint16]string {
	l.t.Helper()
	var list struct {
		Nftables []struct {
			Set *struct {
				Elem []struct{ Concat []any }
			}
		}
	}
	if err := json.Unmarshal([]byte(nft(l.t, "", "-j", "list", "set", "inet", "watch", "sent")), &list); err != nil {
		l.t.Fatal(err)
	}
	out := make(map[uint16]string)
	for _, entry := range list.Nftables {
		if entry.Set == nil {
			continue
		}
		for _, e := range entry.Set.Elem {
			out[uint16(e.Concat[0].(float64))] = fmt.Sprintf("%#x %v %v", uint32(e.Concat[1].(float64)), e.Concat[2], e.Concat[3])
		}
	}
	return out
}

// TestTheJudgeAgreesWithTheKernel sends random packets under random plans by ordinary sockets,
// and compares what has become of each: whether it passes, its mark, by which interface and to
// which port.
func TestTheJudgeAgreesWithTheKernel(t *testing.T) {
	const batch, limit, enough = 200, 15 * time.Second, 4000
	l := newClientLab(t)
	d := dice{rand.New(rand.NewPCG(7, 7))}
	met := make(map[abi.Reason]int)
	n := 0
	for start := time.Now(); n < enough && time.Since(start) < limit; {
		p := d.plan(l)
		l.apply(p)
		load(t, watchSent)
		var packets []OwnPacket
		for i := range batch {
			k := d.packet(l)
			k.Src = netip.AddrPortFrom(k.Src.Addr(), uint16(20000+i))
			packets = append(packets, k)
			l.emit(k)
		}
		sent := l.sent()
		for _, k := range packets {
			fate, err := l.judge.Judge(k, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			told, out, port := "", k.Interface, k.Dst.Port()
			if fate.Port != 0 {
				out, port = "lo", fate.Port
			}
			if fate.Passed {
				told = fmt.Sprintf("%#x %s %d", fate.Mark, out, port)
			}
			if got := sent[k.Src.Port()]; got != told {
				t.Fatalf("%+v: judged %+v, which is %q; it was sent as %q, under\n%+v\n%+v", k, fate, told, got, *p, *p.Client)
			}
			if fate.Reason == abi.ReasonNone && (p.Client.All || k.Mark&0x0f000000 == markTor) {
				t.Errorf("%+v: judged without a reason: %+v", k, fate)
			}
			met[fate.Reason]++
			n++
		}
		l.conntrack("-F") // the next ones begin anew
		l.conntrack("-F", "-f", "ipv6")
	}
	t.Logf("%d packets: %v", n, met)
	for _, r := range []abi.Reason{
		abi.ReasonRouterAddress, abi.ReasonLocalSubnet, abi.ReasonDirectSource, abi.ReasonDirectDestination, abi.ReasonDirectPort,
		abi.ReasonExemptMark, abi.ReasonDirectInterface, abi.ReasonTCP, abi.ReasonOnionTCP, abi.ReasonDNSUDP, abi.ReasonDNSTCP, abi.ReasonOnionDNS,
		abi.ReasonUDP, abi.ReasonQUIC, abi.ReasonNTP, abi.ReasonOnionProtocol, abi.ReasonInboundReply, abi.ReasonRouterDNS, abi.ReasonBlockedSource,
	} {
		if met[r] == 0 {
			t.Errorf("no packet met the reason %s", r)
		}
	}
}

// emit sends one packet, or tries to, from its port.
func (l *clientLab) emit(k OwnPacket) {
	l.t.Helper()
	domain, kind := unix.AF_INET, unix.SOCK_DGRAM
	var from, to unix.Sockaddr = &unix.SockaddrInet4{Port: int(k.Src.Port())}, &unix.SockaddrInet4{Port: int(k.Dst.Port())}
	if k.Dst.Addr().Is6() {
		domain = unix.AF_INET6
		from = &unix.SockaddrInet6{Port: int(k.Src.Port())}
		to = &unix.SockaddrInet6{Port: int(k.Dst.Port()), Addr: k.Dst.Addr().As16()}
	} else {
		to.(*unix.SockaddrInet4).Addr = k.Dst.Addr().As4()
	}
	if k.Protocol == unix.IPPROTO_TCP {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(k.Mark)),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), // nothing is said at the end but a reset
		unix.Bind(fd, from),
	} {
		if err != nil {
			l.t.Fatal(err)
		}
	}
	if kind == unix.SOCK_STREAM {
		err = unix.Connect(fd, to)
	} else {
		err = unix.Sendto(fd, []byte("?"), 0, to)
	}
	if err != nil && !slices.Contains([]error{unix.EINPROGRESS, unix.EPERM, unix.ECONNREFUSED, unix.EHOSTUNREACH}, err) {
		l.t.Fatalf("%+v: %v", k, err)
	}
}
