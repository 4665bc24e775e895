package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// The chains that redirect what this machine itself sends, and let it out or not.
const (
	chainClientDivert   = "client_divert"
	chainClientForged   = "client_forged"
	chainClientSNAT     = "client_snat"
	chainClientOpenings = "client_openings"
	chainClientGuard    = "client_guard"
	chainClientDiverted = "client_diverted"
	chainClientLocal    = "client_local"
	chainClientVia      = "client_via"
	chainClientUnjudged = "client_unjudged"
	chainClientEgress   = "client_egress"
	chainClientLocalOut = "client_local_out"
	chainClientViaOut   = "client_via_out"
)

// loopbacks are where a redirect of our own packets leads.
var loopbacks = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}

// clientDivertChains redirect by class. tor and the sentry see all of it come from the
// loopback address, so they need to let in nobody else.
func (b *builder) clientDivertChains() []chain {
	var sources []rule
	for _, p := range loopbacks {
		sources = append(sources, newRule("redirected", toLoopback(), b.blocked(), toPrefix(p), snat(p.Addr())))
	}
	var divert []rule
	for _, notFromSelf := range b.notFromSelf() {
		divert = append(divert, newRule("its source may be forged", b.blocked(), notFromSelf, goTo(chainClientForged)))
	}
	divert = append(divert, newRule("by class; the others go their way", lookUpClass(b.Mark.ClassMask(), mapClientDivert)))
	return []chain{
		baseChain(chainClientDivert, nftables.ChainTypeNAT, nftables.ChainHookOutput, plan.PriorityRedirect, divert...),
		subChain(chainClientForged,
			newRule("which of a link's addresses are this machine's the kernel does not say here; they lead no further",
				fromPrefix(linkLocal), lookUpClass(b.Mark.ClassMask(), mapClientDivert)),
			newRule("of a raw or transparent socket: the answer would leave for who has that address", drop(RefusedClient))),
		baseChain(chainClientSNAT, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, plan.PriorityRedirect, sources...),
	}
}

// notFromSelf matches a source that is no address of this machine (nft: fib saddr type !=
// local); without look-ups of routes one that it had when this was planned.
func (b *builder) notFromSelf() [][]expr.Any {
	if b.strict {
		return [][]expr.Any{
			append(source(ipv4), notIn(setClientSelf4)),
			append(source(ipv6), notIn(setClientSelf6)),
		}
	}
	return [][]expr.Any{{
		&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagSADDR: true},
		notEqual(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}}
}

// besideTor keeps all but tor from what runs beside it, such as a pluggable transport, which takes
// anybody anywhere. connect() is refused already where that listens; but a SYN that finds a full backlog is
// sent again, and by then the port may be another's. Ports of tor and the sentry are left out: the look-up of a
// socket runs the program at local delivery, which counts what it refuses there.
func (b *builder) besideTor() []rule {
	if !b.Client.All || b.strict {
		return nil
	}
	beside := b.Mark.Bits(uint32(abi.VerdictDirect), abi.OwnBesideTor)
	either := b.Mark.ClassMask() | b.Mark.Bits(0, abi.OwnBesideTor)
	return []rule{newRule("nobody but tor begins a connection to what runs beside it", fromLoopback(),
		tcpFlagsAre(tcpSYN, tcpFIN|tcpSYN|tcpRST|tcpACK), markIsNot(beside, either),
		protocolAndPort(destinationPort), []expr.Any{notIn(setPorts)}, socketMarkIs(beside, b.Mark.Mask()),
		reject(RefusedClient, unix.NFT_REJECT_TCP_RST, 0))}
}

// selfSets hold the addresses of this machine, loopback's too.
func (b *builder) selfSets() []set {
	if !b.strict {
		return nil
	}
	of := map[bool][]netip.Prefix{true: {netip.MustParsePrefix("127.0.0.0/8")}, false: {netip.MustParsePrefix("::1/128")}}
	for _, a := range b.LocalAddrs {
		of[a.Is4()] = append(of[a.Is4()], netip.PrefixFrom(a, a.BitLen()))
	}
	const why = "addresses of this machine"
	return []set{
		prefixSet(setClientSelf4, why, nftables.TypeIPAddr, of[true]),
		prefixSet(setClientSelf6, why, nftables.TypeIP6Addr, of[false]),
	}
}

func (b *builder) clientDiversions() map[abi.Verdict]expr.Verdict {
	return map[abi.Verdict]expr.Verdict{
		abi.VerdictTor:      {Kind: expr.VerdictGoto, Chain: chainDivertTrans},
		abi.VerdictOnion:    {Kind: expr.VerdictGoto, Chain: chainDivertTrans},
		abi.VerdictResolver: {Kind: expr.VerdictGoto, Chain: chainDivertResolver},
	}
}

// clientOpenings remembers in the ct mark which connections to this machine began outside.
// It is asked about first packets only, and for ever about flows that began while nothing of
// the kind was there, those over lo among them. Devices are answered by their LAN, without this. What is
// remembered lets out whoever sends to that peer from that port later on: so it must be
// nobody who begins, and the peer must be where the packet came from.
func (b *builder) clientOpenings() []chain {
	if !b.Client.All {
		return nil
	}
	handshake := byte(tcpFIN | tcpSYN | tcpRST | tcpACK)
	rules := []rule{newRule("this machine began it, whatever source it has", fromLoopback(), leave())}
	if b.hasLANs() {
		rules = append(rules, newRule("a LAN began it", fromLAN(), leave()))
	}
	back := newRule("an answer would take another way than back", comesFromElsewhere(), leave())
	if b.strict {
		back = newRule("this kernel cannot tell by which way an answer would go; by TCP who begins is told from who answers",
			notProtocol(unix.IPPROTO_TCP), leave())
	}
	return []chain{baseChain(chainClientOpenings, nftables.ChainTypeNAT, nftables.ChainHookInput, plan.PriorityClassify, append(rules,
		newRule("tc has classified it: it is from a LAN whose interface was renamed",
			markIsNot(0, b.Mark.ClassMask()), leave()),
		newRule("the middle of a connection that this machine may have begun", tcpFlagsAreNot(tcpSYN, handshake), leave()),
		newRule("the kernel gives such a port to who begins: a stranger could guess it, and open the way to itself",
			protocol(unix.IPPROTO_UDP), toPortFrom(b.Client.Ephemeral), leave()),
		newRule("this machine may have begun it before anything was tracked", settling(), notProtocol(unix.IPPROTO_TCP), notProtocol(unix.IPPROTO_UDP),
			notProtocol(icmp4.number), notProtocol(icmp6.number), leave()),
		back,
		newRule("began outside", ctStateIn(expr.CtStateBitNEW),
			setCtMark(^b.Mark.ClassMask(), b.class(abi.VerdictInbound))))...)}
}

// settling matches while flows may be older than our table: of most protocols nothing in a
// packet says who began.
func settling() []expr.Any { return []expr.Any{meta(expr.MetaKeyNFPROTO), in(setClientSettle)} }

// clientVerdicts holds every class that may leave, and those whose packets have been
// redirected by now.
func (b *builder) clientVerdicts() map[abi.Verdict]expr.Verdict {
	to := func(chain string) expr.Verdict { return expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }
	none := to(chainClientUnjudged)
	if !b.Client.All {
		none = expr.Verdict{Kind: expr.VerdictAccept}
	}
	return map[abi.Verdict]expr.Verdict{
		abi.VerdictNone:    none,
		abi.VerdictDirect:  {Kind: expr.VerdictAccept},
		abi.VerdictInbound: {Kind: expr.VerdictAccept},
		abi.VerdictLocal:   {Kind: expr.VerdictJump, Chain: chainClientLocal},
		abi.VerdictVia:     {Kind: expr.VerdictJump, Chain: chainClientVia},
	}
}

// isDiverted matches the classes that are redirected: those with the blocked bit but not the
// one below, which refused has.
func (b *builder) isDiverted() []expr.Any {
	return markIs(b.Mark.Class(abi.VerdictBlockedBit), b.class(abi.VerdictRefused))
}

// clientGuardChains let pass what may, and end all else at once.
func (b *builder) clientGuardChains() []chain {
	var diverted, unjudged []rule
	for _, p := range loopbacks {
		diverted = append(diverted, newRule("redirected", toPrefix(p), accept()))
	}
	for _, m := range b.clientMarks {
		unjudged = append(unjudged, newRule("exempt by the user's mark", markIs(m.value, m.mask), before(m.until), accept()))
	}
	guard := baseChain(chainClientGuard, nftables.ChainTypeFilter, nftables.ChainHookOutput, plan.PriorityGuard,
		slices.Concat([]rule{
			newRule("it stays on this machine", toLoopback(), accept()),
			newRule("Tor's, or the sentry's", b.isDiverted(), goTo(chainClientDiverted)),
		}, outputRules(), []rule{
			newRule("by class", lookUpClass(b.Mark.ClassMask(), mapClientGuard)),
		}, refuse("Tor cannot carry it", RefusedClient))...)
	chains := []chain{
		guard,
		subChain(chainClientDiverted, append(diverted,
			refuse("it was not redirected: its connection is older than what redirects it, or somebody else's rule was first", DroppedClientUndiverted)...)...),
		subChain(chainClientLocal, b.nearRules(accept())...),
		subChain(chainClientVia, b.exitRules(accept())...),
	}
	chains = append(chains, b.clientEgress()...)
	if !b.Client.All {
		return chains
	}
	drops := nftables.ChainPolicyDrop
	guard.Policy = &drops // also of a chain that somebody has emptied
	return append(chains, subChain(chainClientUnjudged, append(unjudged,
		refuse("not judged: the mark was wiped, or what judges is gone", DroppedClientUnjudged)...)...))
}

// clientEgress sees the interface by which a packet leaves. At the output hook all chains
// see that of the route before a redirect, or before a mark of the user's led elsewhere;
// so what the guard let pass by its interface is asked for it once more. Nobody can be
// told here. It is the last of ours, so what passes it is counted there.
func (b *builder) clientEgress() []chain {
	local, via := b.isClass(abi.VerdictLocal), b.isClass(abi.VerdictVia)
	elsewhere := "its route has changed: this may be the way out"
	stays := accept()
	if b.Client.All {
		stays = goTo(chainClientToItself)
	}
	egress := baseChain(chainClientEgress, nftables.ChainTypeFilter, nftables.ChainHookPostrouting, plan.PriorityGuard,
		append([]rule{
			newRule("only what this machine sends", fromSomewhere(), accept()),
			newRule("it stays here", toLoopback(), stays),
			newRule("redirected, but its socket is bound to another interface", b.blocked(), drop(DroppedClientUndiverted)),
			newRule("by the interface it was learned on", local, jump(chainClientLocalOut)),
			newRule(elsewhere, local, drop(DroppedClientElsewhere)),
			newRule("by an excluded interface", via, jump(chainClientViaOut)),
			newRule(elsewhere, via, drop(DroppedClientElsewhere)),
		}, b.clientPassed()...)...)
	return append(b.clientToItself(), egress,
		subChain(chainClientLocalOut, b.nearRules(b.countOwn(countClientLocal))...),
		subChain(chainClientViaOut, b.exitRules(b.countOwn(countClientDirect))...))
}

// nearRules match what goes to a neighbour, or to a link and no further.
func (b *builder) nearRules(then []expr.Any) []rule {
	return slices.Concat(b.localRules(then), housekeepingRules(then), b.linkRules(then))
}

// refuse ends a connection by a reset. Who sends anything else is told by the error of the
// call (EPERM), since a drop at this hook is one.
func refuse(why, counter string) []rule {
	return []rule{
		newRule(why, protocol(unix.IPPROTO_TCP), reject(counter, unix.NFT_REJECT_TCP_RST, 0)),
		newRule(why, drop(counter)),
	}
}
