package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The chains that give what this machine itself sends its class.
const (
	chainClientClassify = "client_classify"
	chainClientLoopback = "client_loopback"
	chainClientOnion    = "client_onion"
	chainClientAnswers  = "client_answers"
	chainClientDNS      = "client_dns"
	chainClientCell     = "client_cell"
	chainClientTor      = "client_tor"
	chainClientLink     = "client_link"
)

// clientChains are for what this machine itself sends.
func (b *builder) clientChains() []chain {
	if b.Client == nil {
		return nil
	}
	return slices.Concat(b.clientClassifyChains(), b.clientDivertChains(), b.clientGuardChains(), b.clientOpenings())
}

// clientClassifyChains give each packet of ours its class, behind the marks of the
// user's mangle rules and before any address is rewritten. What has a class from its
// socket keeps it, but for .onion, which nothing exempts.
func (b *builder) clientClassifyChains() []chain {
	rules := b.clientSockets()
	rules = append(rules, b.clientDNSRules()...)
	rules = append(rules,
		newRule("what keeps a machine on its network, none of it by TCP", notProtocol(unix.IPPROTO_TCP), jump(chainClientLink)),
		newRule("what runs by Tor: nothing that is excluded for others lets it out", b.isClass(abi.VerdictTor), goTo(chainClientCell)))
	if b.Client.All {
		rules = append(rules, b.clientExclusions()...)
		rules = append(rules, b.clientRest(b.exitRules(b.give(abi.VerdictVia))...)...)
	}
	tcp := protocol(unix.IPPROTO_TCP)
	chains := []chain{
		baseChain(chainClientClassify, nftables.ChainTypeFilter, nftables.ChainHookOutput, plan.PriorityLateMarks, rules...),
		b.clientLoopback(),
		subChain(chainClientLink, slices.Concat(because(abi.ReasonLocalSubnet, housekeepingRules(b.give(abi.VerdictLocal))),
			b.torLinkRules(), because(abi.ReasonLocalSubnet, b.linkRules(b.give(abi.VerdictLocal))))...),
		b.clientDNS(),
		subChain(chainClientCell, b.clientRest()...),
		subChain(chainClientTor,
			newRule("to Tor", tcp, b.give(abi.VerdictTor)).because(abi.ReasonTCP),
			newRule("Tor cannot carry it", b.give(abi.VerdictRefused)).because(abi.ReasonProtocol)),
	}
	if len(b.onionPrefixes()) > 0 {
		chains = append(chains, subChain(chainClientOnion,
			newRule(".onion", tcp, b.give(abi.VerdictOnion)).because(abi.ReasonOnionTCP),
			newRule(".onion, asked for a name", protocol(unix.IPPROTO_UDP), toPort(config.PortDNS), b.give(abi.VerdictResolver)).because(abi.ReasonOnionDNS),
			newRule("no service has anything else", b.give(abi.VerdictRefused)).because(abi.ReasonOnionProtocol)))
	}
	if b.Client.All {
		chains = append(chains, b.clientAnswers())
	}
	return chains
}

// clientExclusions let out what the user has excluded for whoever sends.
func (b *builder) clientExclusions() []rule {
	rules := b.portRules(false)
	for _, m := range b.clientMarks {
		rules = append(rules, newRule("exempt by the user's mark; without our bits, since the user's rules may compare all of it",
			markIs(m.value, m.mask), before(m.until), setMark(^b.Mark.Mask(), 0), accept()).because(abi.ReasonExemptMark).of(m.of))
	}
	return append(rules, b.openingRules()...)
}

// clientRest is for what no rule has let out by where it goes. What runs by Tor meets no more
// than this, and no exits.
func (b *builder) clientRest(exits ...rule) []rule {
	return slices.Concat([]rule{
		newRule("a later fragment hides its port, and might finish a query", isLaterFragment(), b.give(abi.VerdictRefused)).because(abi.ReasonFragment),
	}, because(abi.ReasonDirectInterface, exits), because(abi.ReasonLocalSubnet, b.localRules(b.give(abi.VerdictLocal))), []rule{
		newRule("all else is Tor's, or nobody's", goTo(chainClientTor)),
	})
}

// clientSockets are the rules that ask for the class of the socket, and for the connection.
func (b *builder) clientSockets() []rule {
	var rules []rule
	if !b.strict {
		tor := b.class(abi.VerdictTor)
		rules = append(rules, newRule("what runs by Tor does so, whatever mark a rule of the user's has given it; in a tunnel it is the tunnel's",
			markIsNot(b.class(abi.VerdictLocal), b.Mark.ClassMask()), socketMarkIs(tor, b.Mark.ClassMask()), setMark(^b.Mark.Mask(), tor)))
	}
	if !b.Client.All {
		rules = append(rules, newRule("only what runs by Tor", markIsNot(b.class(abi.VerdictTor), b.Mark.ClassMask()), accept()))
	}
	rules = append(rules,
		newRule("it stays on this machine", toLoopback(), goTo(chainClientLoopback)),
		newRule("of a connection that is redirected already, as all of its packets are", b.isRedirected(), b.give(abi.VerdictTor)))
	own := b.Tors()[0]
	for _, p := range valid(own.Onion4, own.Onion6) {
		rules = append(rules, newRule(".onion, whoever asks", toPrefix(p), goTo(chainClientOnion)))
	}
	if b.severalTors() {
		for _, p := range b.onionPrefixes() {
			rules = append(rules, newRule(".onion as another tor has it, which this machine does not use", toPrefix(p), b.give(abi.VerdictRefused)))
		}
	}
	if !b.Client.All {
		return rules
	}
	return append(rules,
		newRule("of an exempt user, control group or program", b.isClass(abi.VerdictDirect), accept()).because(abi.ReasonDirectSource),
		newRule("of a connection that was accepted from outside", b.isClass(abi.VerdictInbound), accept()).because(abi.ReasonInboundReply),
		newRule("an answer, but not of what runs by Tor: it has no answers in clear",
			markIsNot(b.class(abi.VerdictTor), b.Mark.ClassMask()), ctDirection(reply), jump(chainClientAnswers)))
}

// isRedirected matches what conntrack translates to TransPort. Whatever else somebody may
// have translated to a port of that number is none of ours, and ends at the guard.
func (b *builder) isRedirected() []expr.Any {
	return slices.Concat(protocol(unix.IPPROTO_TCP), ctStateIn(expr.CtStateBitESTABLISHED), ctDNAT(), ctDirection(original), []expr.Any{
		&expr.Ct{Key: expr.CtKeyPROTOSRC, Direction: reply, Register: reg1}, equal(portKey(b.Ports.Trans)[:2]),
	})
}

// clientLoopback leaves alone what stays here, but for what would go on in clear for what
// runs by Tor: a resolver of this machine, or the proxy past Tor. Its class would block the
// rest.
func (b *builder) clientLoopback() chain {
	tor := b.isClass(abi.VerdictTor)
	others := markIsNot(b.class(abi.VerdictTor), b.Mark.ClassMask())
	why := "a resolver of this machine would ask in clear for what runs by Tor"
	rules := []rule{
		newRule("of nobody who runs by Tor alone", others, accept()).because(abi.ReasonRouterAddress),
		newRule(why, tor, protocol(unix.IPPROTO_UDP), toPort(config.PortDNS), b.give(abi.VerdictResolver)).because(abi.ReasonDNSUDP),
		newRule(why, tor, protocol(unix.IPPROTO_TCP), toPort(config.PortDNS), b.give(abi.VerdictResolver)).because(abi.ReasonDNSTCP),
		newRule(why, tor, protocol(unix.IPPROTO_TCP), toPort(portDNSTLS), reject(RefusedClient, unix.NFT_REJECT_TCP_RST, 0)).because(abi.ReasonRouterDNS),
		newRule(why, tor, protocol(unix.IPPROTO_UDP), toPort(portDNSTLS), drop(RefusedClient)).because(abi.ReasonRouterDNS),
	}
	if port := b.Client.ProxyPort; port != 0 {
		rules = append(rules, newRule("the proxy past Tor is for others", tor, protocol(unix.IPPROTO_TCP), toPort(port),
			reject(RefusedClient, unix.NFT_REJECT_TCP_RST, 0)).because(abi.ReasonBlockedSource))
	}
	return subChain(chainClientLoopback, append(rules, newRule("to a neighbour on this machine", tor, setMark(^b.Mark.Mask(), 0)).because(abi.ReasonRouterAddress))...)
}

// clientAnswers let out what answers a connection from outside, as conntrack knows it.
// DNS is no answer: or a stranger could open flows from port 53 and wait for queries.
func (b *builder) clientAnswers() chain {
	rules := []rule{
		newRule("a query is none", protocol(unix.IPPROTO_UDP), toPort(config.PortDNS), leave()),
		newRule("a query is none", protocol(unix.IPPROTO_TCP), toPort(config.PortDNS), leave()),
	}
	if b.hasLANs() {
		rules = append(rules, newRule("to a device, by its LAN", toLAN(), b.give(abi.VerdictInbound)))
	}
	rules = append(rules, newRule("who begins never answers: its SYN meets one sent from outside to catch it",
		b.isInbound(), tcpFlagsAre(tcpSYN, tcpSYN|tcpACK), setCtMark(^b.Mark.ClassMask(), 0), leave()))
	for _, m := range b.clientMarks {
		rules = append(rules, newRule("exempt as well, by the user's mark: that is left as it is",
			b.isInbound(), markIs(m.value, m.mask), before(m.until), setMark(^b.Mark.Mask(), 0), accept()))
	}
	return subChain(chainClientAnswers, append(rules,
		newRule("to a connection that began outside", b.isInbound(), b.give(abi.VerdictInbound)))...)
}

func (b *builder) clientDNSRules() []rule {
	return []rule{
		newRule("DNS", protocol(unix.IPPROTO_UDP), toPort(config.PortDNS), goTo(chainClientDNS)),
		newRule("DNS", protocol(unix.IPPROTO_TCP), toPort(config.PortDNS), goTo(chainClientDNS)),
	}
}

// clientDNS has the sentry answer, but where a rule names that port.
func (b *builder) clientDNS() chain {
	var rules []rule
	if b.Client.All {
		rules = append(rules, newRule("what runs by Tor asks nobody else", b.isClass(abi.VerdictTor), b.give(abi.VerdictResolver)).because(abi.ReasonDNSUDP))
		rules = append(rules, b.portRules(true)...)
	}
	return subChain(chainClientDNS, append(rules, newRule("DNS, whomever it asks: the sentry answers", b.give(abi.VerdictResolver)).because(abi.ReasonDNSUDP))...)
}

// torLinkRules keep what runs by Tor from telling the link what it looks for.
func (b *builder) torLinkRules() []rule {
	var rules []rule
	for _, p := range toMany {
		rules = append(rules, newRule("who runs by Tor tells nobody", b.isClass(abi.VerdictTor), toPrefix(p), b.give(abi.VerdictRefused)).because(abi.ReasonProtocol))
	}
	return append(rules, newRule("who runs by Tor keeps no network", b.isClass(abi.VerdictTor), leave()))
}

// linkRules match what never gets further than a link, and what a machine needs to stay on
// its network. A lease is renewed of a server of the own subnets only; any other is asked
// like all of them, when the lease is about to end (RFC 2131, 4.4.5).
func (b *builder) linkRules(then []expr.Any) []rule {
	udp := protocol(unix.IPPROTO_UDP)
	client4, client6 := slices.Concat(udp, ports(68, 67)), slices.Concat(udp, ports(546, 547))
	rules := []rule{
		newRule("a DHCP client asks all", client4, toPrefix(everybody), then),
		newRule("a DHCP client asks its server", client4, outAndTo(ipv4), []expr.Any{in(setClientLocal4)}, then),
		newRule("a DHCPv6 client asks all", client6, toPrefix(netip.MustParsePrefix("ff02::1:2/128")), then),
		newRule("a DHCPv6 client asks its server", client6, toPrefix(linkLocal), then),
		newRule("a DHCPv6 client asks its server", client6, outAndTo(ipv6), []expr.Any{in(setClientLocal6)}, then),
	}
	if b.hasLANs() {
		rules = append(rules,
			newRule("a DHCP server", toLAN(), udp, ports(67, 68), then),
			newRule("a DHCPv6 server", toLAN(), udp, ports(547, 546), then))
	}
	if b.LocalMode == config.LocalNone {
		return rules
	}
	return append(rules, staysOnLink(then)...)
}

// portRules are what the user says of ports, the most specific first: of that of DNS, or
// of the others. What ends lets the next one speak, first what was beneath it.
func (b *builder) portRules(dns bool) []rule {
	of := b.Client.Rules.Of(config.KindPort)
	slices.SortStableFunc(of, func(x, y config.Rule) int { return cmp.Compare(y.Prefix.Bits(), x.Prefix.Bits()) })
	var rules []rule
	for _, r := range of {
		if dns != (r.Service.HasPorts() && r.Service.Port == config.PortDNS) {
			continue
		}
		for _, layer := range slices.Backward(r.Layers()) {
			rules = append(rules, b.portRule(layer, dns)...)
		}
	}
	return rules
}

func (b *builder) portRule(r config.Rule, dns bool) []rule {
	then, comment, reason := b.give(abi.VerdictDirect), "excluded: "+r.String(), abi.ReasonDirectPort
	if r.Policy != config.PolicyDirect {
		then, comment, reason = goTo(chainClientTor), "taken back: "+r.String(), abi.ReasonNone
		if dns {
			then, reason = b.give(abi.VerdictResolver), abi.ReasonDNSUDP
		}
	}
	var rules []rule
	for _, service := range serviceMatches(r) {
		rules = append(rules, newRule(comment, service, before(r.Until), then).because(reason).of(r))
	}
	return rules
}

// serviceMatches match what a rule about ports names; ICMP goes by another number with IPv6.
func serviceMatches(r config.Rule) [][]expr.Any {
	var where []expr.Any
	if r.Prefix.IsValid() {
		where = toPrefix(r.Prefix)
	}
	switch {
	case r.Service.HasPorts():
		return [][]expr.Any{slices.Concat(where, protocol(r.Service.Protocol), toPort(r.Service.Port))}
	case r.Service.Protocol != config.ProtocolICMP:
		return [][]expr.Any{slices.Concat(where, protocol(r.Service.Protocol))}
	case r.Prefix.IsValid() && r.Prefix.Addr().Is6():
		return [][]expr.Any{slices.Concat(where, protocol(icmp6.number))}
	case r.Prefix.IsValid():
		return [][]expr.Any{slices.Concat(where, protocol(icmp4.number))}
	default:
		return [][]expr.Any{protocol(icmp4.number), protocol(icmp6.number)}
	}
}

// openingRules let out what goes to excluded destinations, while those are.
func (b *builder) openingRules() []rule {
	var rules []rule
	for _, o := range b.direct {
		if len(o.prefixes4) > 0 {
			rules = append(rules, newRule("excluded destinations", destination(ipv4), []expr.Any{in(o.set4)}, before(o.until), b.give(abi.VerdictDirect)).because(abi.ReasonDirectDestination))
		}
		if len(o.prefixes6) > 0 {
			rules = append(rules, newRule("excluded destinations", destination(ipv6), []expr.Any{in(o.set6)}, before(o.until), b.give(abi.VerdictDirect)).because(abi.ReasonDirectDestination))
		}
	}
	return rules
}

// exitRules match what leaves by an excluded interface.
func (b *builder) exitRules(then []expr.Any) []rule {
	var rules []rule
	for _, e := range b.Client.Exits {
		r := b.Client.Rules[e.Rule]
		rules = append(rules, newRule("by an excluded interface", isInterface(expr.MetaKeyOIFNAME, e.Name), before(r.Until), then).of(r))
	}
	return rules
}

// localRules match what goes to a neighbour by the interface that leads there. 169.254/16 is
// a subnet like others: where no interface has an address of it, it takes the default route,
// and a cloud's metadata server there knows which machine this is.
func (b *builder) localRules(then []expr.Any) []rule {
	why := "a subnet behind the interface it was learned on"
	rules := []rule{
		newRule(why, outAndTo(ipv4), []expr.Any{in(setClientLocal4)}, then),
		newRule(why, outAndTo(ipv6), []expr.Any{in(setClientLocal6)}, then),
	}
	if b.LocalMode == config.LocalNone {
		return rules
	}
	return append(rules, newRule("link-local", toPrefix(linkLocal), then))
}

// give sets the class and is done.
func (b *builder) give(v abi.Verdict) []expr.Any {
	return slices.Concat(setMark(^b.Mark.Mask(), b.class(v)), accept())
}

func (b *builder) hasLANs() bool { return len(b.BlockedNames())+len(b.Patterns) > 0 }
