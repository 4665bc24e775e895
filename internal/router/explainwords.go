package router

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// then says what nftables and routing make of the verdict.
func (x *explained) then() []string {
	if x.said.Reason != x.said.ReadyReason {
		return []string{"it is dropped where it arrives; what began before goes on", "once Tor is ready: " + x.fate(x.said.ReadyVerdict)}
	}
	return []string{x.fate(x.said.Verdict)}
}

func (x *explained) fate(v abi.Verdict) string {
	ports, of := x.plan.Ports, "tor's"
	t := x.plan.Tors()[x.said.Instance]
	if x.plan.Instances > 1 {
		of = fmt.Sprintf("tor %d's", x.said.Instance)
	}
	switch v {
	case abi.VerdictLocal:
		return x.localFate()
	case abi.VerdictDirect:
		if x.toRouter() {
			return "it is delivered to the router, whose own services and firewall decide, as if torbpf were not there"
		}
		return "it is forwarded as if torbpf were not there, by the rules and the NAT of this host: " + x.way()
	case abi.VerdictVia:
		return "it is forwarded, by an excluded interface and by no other: " + x.way()
	case abi.VerdictTor, abi.VerdictOnion:
		if x.plan.TProxy {
			return fmt.Sprintf("it is handed to %s socket, %s, as it is: no NAT, and conntrack knows nothing of it", of, transAddr(loader.Listener{IPv6: x.To.Is6()}, t.Trans))
		}
		return fmt.Sprintf("nftables redirects it to %s TransPort, %d of the router", of, t.Trans)
	case abi.VerdictDNS:
		return fmt.Sprintf("nftables redirects it to %s DNSPort, %d of the router, whoever was asked", of, t.DNS)
	case abi.VerdictResolver:
		if x.reason == abi.ReasonDNSLocal {
			return fmt.Sprintf("nftables redirects it to the sentry, port %d of the router, which asks the router's own resolver if that keeps such names to itself", ports.Resolver)
		}
		if x.reason == abi.ReasonDNSDomain {
			return fmt.Sprintf("nftables redirects it to the sentry, port %d of the router, which asks %s in clear and lets this device reach the answer", ports.Resolver, x.state.Config.Resolver)
		}
		return fmt.Sprintf("nftables redirects it to the sentry, port %d of the router, which asks through Tor", ports.Resolver)
	case abi.VerdictTime:
		return "nftables redirects it to the router's own time server, port 123"
	case abi.VerdictPending:
		return "it goes on to nftables in a class that nothing forwards; what decides is below, and what nobody lets go is refused there"
	case abi.VerdictRefused:
		return "it is dropped where it arrives"
	default:
		return "torbpf does not judge it"
	}
}

func (x *explained) localFate() string {
	switch x.reason {
	case abi.ReasonRouterAddress:
		if x.toListener() {
			return fmt.Sprintf("nftables drops it in silence (%s): port %d is for what is redirected there, and for nobody who asks for it", nft.DroppedPort, x.DstPort)
		}
		return "it is delivered to the router, whose own services and firewall decide; it is never forwarded"
	case abi.ReasonLocalSubnet:
		_, name := x.localInterface()
		if name == x.lan.Name {
			return fmt.Sprintf("it stays behind %s: devices there reach each other without Tor", name)
		}
		return fmt.Sprintf("it is forwarded by %s if the rules of this host let it, and by no other interface: %s", name, x.way())
	default:
		return fmt.Sprintf("it stays on the link of %s: no router forwards it", x.lan.Name)
	}
}

// toListener tells whether the packet is for a port of tor's or of the sentry's; see setPorts
// of package nft.
func (x *explained) toListener() bool {
	if x.Protocol != unix.IPPROTO_TCP && x.Protocol != unix.IPPROTO_UDP {
		return false
	}
	return x.DstPort == x.plan.Ports.Resolver || slices.ContainsFunc(x.plan.Tors(), func(t plan.Tor) bool {
		return x.DstPort == t.Trans && x.Protocol == unix.IPPROTO_TCP || x.DstPort == t.DNS && x.Protocol == unix.IPPROTO_UDP
	})
}

// toRouter tells whether the packet is delivered to this host whatever its class is.
func (x *explained) toRouter() bool { return slices.Contains(x.plan.LocalAddrs, x.To) }

// way says where the kernel routes the packet now.
func (x *explained) way() string {
	if x.hopError != nil {
		return fmt.Sprintf("the kernel forwards it nowhere now (%v)", x.hopError)
	}
	text := "the kernel routes it by " + linkName(x.facts, x.hop.Index)
	if x.hop.Gateway.IsValid() {
		text += " to " + x.hop.Gateway.String()
	}
	return text + " now"
}

// overruled are the verdicts that a late mark undoes; see the chain late_marks.
var overruled = []abi.Verdict{abi.VerdictTor, abi.VerdictTime, abi.VerdictPending}

// mayTurn tells whether a name or a route may yet let out what ends here: not what is local,
// nor what a rule for its destination keeps.
func (x *explained) mayTurn() bool {
	kept := x.rules.decided && (x.rules.entry.Kind == config.KindPort || x.rules.entry.Kind == config.KindDestination)
	return atLast[x.reason] && x.reason != abi.ReasonLocalSubnet && !kept
}

// depends says what nobody can tell beforehand.
func (x *explained) depends() []string {
	var out []string
	if x.reason == abi.ReasonInboundReply {
		out = append(out, "conntrack: as an answer to a connection that began outside it is forwarded, else it is refused")
	}
	if x.reason == abi.ReasonDirectDomain {
		out = append(out, "the answer that the device had for this name: once that is over, what begins anew is not direct any more")
	}
	if domains := x.plan.Rules.Of(config.KindDomain); len(domains) > 0 && x.mayTurn() {
		out = append(out, "the names that are excluded: an address that this device is told for one of them is direct for a while")
	}
	if x.said.ReadyVerdict == abi.VerdictVia {
		out = append(out, "its route: when that leads elsewhere, this rule says nothing of it any more")
	}
	if marks := x.plan.ExemptMarks(); len(marks) > 0 && slices.Contains(overruled, x.said.ReadyVerdict) {
		var texts []string
		for _, m := range marks {
			texts = append(texts, m.String())
		}
		out = append(out, fmt.Sprintf("your own rules: it goes direct if one of them, in prerouting before priority %d, gives it the mark %s", plan.PriorityLateMarks, strings.Join(texts, " or ")))
	}
	if len(x.plan.Exits) > 0 && x.mayTurn() {
		var names []string
		for _, e := range x.plan.Exits {
			names = append(names, e.Name)
		}
		out = append(out, fmt.Sprintf("its route: if that led to %s it would go there directly", strings.Join(names, " or ")))
	}
	if r := x.rules.rule; r != nil && !r.Until.IsZero() {
		out = append(out, "the time: that rule ends by itself")
	}
	return out
}

// notes are what else somebody who asks should know.
func (x *explained) notes() []string {
	var out []string
	if x.Name != "" {
		out = append(out, fmt.Sprintf("this is the query alone: what then goes to %s depends on the addresses it gets, which are not asked for here, since that would be in clear. Name one: --to ADDRESS", x.Name))
	}
	if x.assumed && len(x.plan.Rules.Of(config.KindDevice)) > 0 {
		out = append(out, fmt.Sprintf("the hardware address of %s is not known, so rules for devices were left out: name it with --mac", x.From))
	}
	if v := x.said.ReadyVerdict; !x.toRouter() && (v == abi.VerdictDirect || v == abi.VerdictVia || x.reason == abi.ReasonLocalSubnet) {
		v4, v6, err := host.ForwardingEnabled()
		if on := v4 && x.To.Is4() || v6 && x.To.Is6(); err == nil && !on {
			out = append(out, "this kernel does not forward: turn it on yourself, or with `torbpf exclude add --enable-forwarding` until detach")
		}
	}
	return out
}

// readAnswer says what a refused sender is told, of the packet that would tell it.
func readAnswer(packet []byte) string {
	if len(packet) < 20 {
		return ""
	}
	protocol, header, from := packet[9], int(packet[0]&0xf)*4, packet[12:16]
	if packet[0]>>4 == 6 && len(packet) >= 40 {
		protocol, header, from = packet[6], 40, packet[8:24]
	}
	body := packet[min(header, len(packet)):]
	sender, _ := netip.AddrFromSlice(from)
	switch {
	case len(body) < 8:
	case protocol == unix.IPPROTO_TCP:
		return fmt.Sprintf("a reset, in the name of %s", sender)
	case protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6:
		return fmt.Sprintf("%s, from %s", icmpWords(protocol, body[1]), sender)
	case protocol == unix.IPPROTO_UDP && len(body) >= 12:
		code := int(binary.BigEndian.Uint16(body[10:]) & 0xf) // RFC 1035, 4.1.1
		if code == dns.RcodeSuccess {
			return "DNS that there is no such record (NOERROR without data)"
		}
		return "DNS with " + dns.RcodeToString[code]
	}
	return "a packet of protocol " + fmt.Sprint(protocol)
}

// icmpWords names the code of an unreachable: RFC 792 and RFC 1812, RFC 4443.
func icmpWords(protocol, code byte) string {
	switch {
	case protocol == unix.IPPROTO_ICMP && code == 3, protocol == unix.IPPROTO_ICMPV6 && code == 4:
		return "ICMP port unreachable"
	case protocol == unix.IPPROTO_ICMP && code == 13, protocol == unix.IPPROTO_ICMPV6 && code == 1:
		return "ICMP administratively prohibited"
	}
	return fmt.Sprintf("ICMP unreachable, code %d", code)
}
