package router

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/nft"
)

// The ports of a device's connection to a site, whichever.
const (
	anyPort    = 40000
	anyService = 443
)

// lookAtFirewall goes through the chains of others with what a LAN sends.
func (g *gathering) lookAtFirewall(p *plan.Plan) {
	checks := []string{doctor.CheckFirewall, doctor.CheckFirewallOut, doctor.CheckMarks, doctor.CheckOpenPorts}
	others, err := nft.ReadOthers()
	if err != nil {
		g.unread(g.explained(err), checks...)
		return
	}
	g.others = others
	f := &g.facts.Firewall
	if f.Legacy, err = host.HasLegacyFilter(); err != nil {
		g.unread(g.explained(err), checks...)
	}
	f.Wiping = others.Wiping(p.Mark)
	f.Docker = others.Has("DOCKER-USER") || others.Has("DOCKER")
	f.Input = others.Lists(nftables.ChainHookInput)
	for _, l := range p.LANs {
		arriving := g.divertedFrom(p, l)
		f.Delivered = append(f.Delivered, stopped(l.Name, arriving, others.Delivered, func(chain string) []string { return lettingIn(p, chain, l.Name) })...)
		for _, u := range p.Uplinks {
			passing := g.excludedFrom(p, l, u)
			f.Forwarded = append(f.Forwarded, stopped(l.Name, passing, others.Forwarded, func(chain string) []string { return lettingThrough(chain, l.Name, u.Name) })...)
		}
	}
}

// sent is a packet of a LAN's, and what it is called.
type sent struct {
	what string
	nft.OtherPacket
}

// stopped groups by chain what does not pass there.
func stopped(lan string, packets []sent, judge func(nft.OtherPacket) nft.OtherFate, rules func(chain string) []string) []doctor.Stopped {
	var out []doctor.Stopped
	add := func(what, chain string, perhaps bool) {
		i := slices.IndexFunc(out, func(s doctor.Stopped) bool { return s.Chain == chain && s.Perhaps == perhaps })
		if i < 0 {
			out = append(out, doctor.Stopped{Chain: chain, LAN: lan, Perhaps: perhaps, Rules: rules(chain)})
			i = len(out) - 1
		}
		out[i].What = append(out[i].What, what)
	}
	for _, p := range packets {
		fate := judge(p.OtherPacket)
		for _, chain := range fate.Stopping {
			add(p.what, chain, false)
		}
		for _, chain := range fate.Unknown {
			add(p.what, chain, true)
		}
	}
	return out
}

// lettingThrough are the rules by which a chain lets through what is excluded, and its answers.
func lettingThrough(chain, lan, uplink string) []string {
	return []string{
		fmt.Sprintf("nft insert rule %s iifname %q oifname %q accept", chain, lan, uplink),
		fmt.Sprintf("nft insert rule %s iifname %q oifname %q ct state established,related accept", chain, uplink, lan),
	}
}

// divertedFrom are the packets of a LAN that go to tor or the sentry, as input chains see them.
func (g *gathering) divertedFrom(p *plan.Plan, l plan.LAN) []sent {
	var out []sent
	for _, own := range []netip.Addr{l.Addr4, l.Addr6} {
		src, ok := neighbour(l, own)
		if !ok || src.Is6() && src.IsLinkLocalUnicast() {
			continue
		}
		version := map[bool]string{true: "4", false: "6"}[own.Is4()]
		for _, d := range []struct {
			what     string
			protocol uint8
			port     uint16
			class    abi.Verdict
		}{
			{"tcp", unix.IPPROTO_TCP, p.Ports.Trans, abi.VerdictTor},
			{"udp", unix.IPPROTO_UDP, p.Ports.DNS, abi.VerdictDNS},
			{"DNS by tcp", unix.IPPROTO_TCP, p.Ports.Resolver, abi.VerdictResolver},
		} {
			packet := nft.OtherPacket{
				Interface: l.Name, Index: l.Index, Protocol: d.protocol, Mark: p.Mark.Class(uint32(d.class)), Redirected: true,
				Src: netip.AddrPortFrom(src, anyPort), Dst: netip.AddrPortFrom(own, d.port),
			}
			if p.TProxy && d.class == abi.VerdictTor {
				packet.Dst, packet.Redirected, packet.Untracked = netip.AddrPortFrom(somewhere(own), probePort), false, true
			}
			out = append(out, sent{d.what + version, packet})
		}
	}
	return out
}

// somewhere is an address that many a site could have, of the family of another.
func somewhere(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.MustParseAddr("76.3.5.7")
	}
	return netip.MustParseAddr("2a00:4:7::7")
}

// excludedFrom are packets of a LAN that go out directly by an uplink.
func (g *gathering) excludedFrom(p *plan.Plan, l plan.LAN, u plan.Uplink) []sent {
	var out []sent
	for _, own := range []netip.Addr{l.Addr4, l.Addr6} {
		src, ok := neighbour(l, own)
		if !ok || src.Is6() && src.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, sent{fmt.Sprintf("IPv%s from %s to %s", map[bool]string{true: "4", false: "6"}[own.Is4()], l.Name, u.Name), nft.OtherPacket{
			Interface: l.Name, Index: l.Index, Out: u.Name, Protocol: unix.IPPROTO_TCP, Mark: p.Mark.Class(uint32(abi.VerdictDirect)),
			Src: netip.AddrPortFrom(src, anyPort), Dst: netip.AddrPortFrom(somewhere(own), anyService),
		}})
	}
	return out
}

// lookAtListeners finds out which services an uplink leads to.
func (g *gathering) lookAtListeners(p *plan.Plan) {
	listening, err := host.Listeners()
	if err != nil {
		g.unread(err, doctor.CheckOpenPorts, doctor.CheckResolver)
		return
	}
	for _, l := range listening {
		one := doctor.Listener{Protocol: l.Protocol, Addr: l.Addr, PID: l.PID, Process: l.Process, Ours: g.guards(p, l)}
		for _, u := range p.Uplinks {
			open, perhaps := g.reaches(u, l)
			switch {
			case open:
				one.From = append(one.From, u.Name)
			case perhaps:
				one.Perhaps = append(one.Perhaps, u.Name)
			}
		}
		g.facts.Listening = append(g.facts.Listening, one)
	}
}

// guards tells whether torbpf itself keeps others from a port: its table lets in what was diverted there,
// whoever listens.
func (g *gathering) guards(p *plan.Plan, l host.Listener) bool {
	if !g.inForce {
		return false
	}
	port := l.Addr.Port()
	return port == p.Ports.Resolver || g.isOurs(g.state, l.PID) ||
		slices.ContainsFunc(p.Tors(), func(t plan.Tor) bool {
			return l.Protocol == "tcp" && t.Trans == port || l.Protocol == "udp" && t.DNS == port
		})
}

// reaches tells whether what comes in by an uplink reaches a service.
func (g *gathering) reaches(u plan.Uplink, l host.Listener) (open, perhaps bool) {
	if g.awaitsNobody(l) {
		return false, false
	}
	for _, a := range g.facts.Host.Addrs {
		own := a.Prefix.Addr()
		if a.Index != u.Index || own.IsLinkLocalUnicast() || !takes(l, own) {
			continue
		}
		protocol := uint8(unix.IPPROTO_TCP)
		if l.Protocol == "udp" {
			protocol = unix.IPPROTO_UDP
		}
		fate := g.others.Delivered(nft.OtherPacket{
			Interface: u.Name, Index: u.Index, Protocol: protocol,
			Src: netip.AddrPortFrom(somewhere(own), anyPort), Dst: netip.AddrPortFrom(own, l.Addr.Port()),
		})
		if len(fate.Stopping) > 0 {
			continue
		}
		if len(fate.Unknown) == 0 {
			return true, false
		}
		perhaps = true
	}
	return false, perhaps
}

// takes tells whether a service is to be had at an address.
func takes(l host.Listener, own netip.Addr) bool {
	if at := l.Addr.Addr(); !at.IsUnspecified() {
		return at == own
	}
	return l.Addr.Addr().Is6() || own.Is4()
}

// Ports by which this machine itself asks for addresses, and is answered.
const (
	portDHCP4 = 68
	portDHCP6 = 546
)

// awaitsNobody tells a socket by which somebody here asks from a service.
func (g *gathering) awaitsNobody(l host.Listener) bool {
	port := l.Addr.Port()
	return l.Protocol == "udp" && (port == portDHCP4 || port == portDHCP6 || port >= g.facts.Host.Ephemeral)
}
