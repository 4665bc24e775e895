package router

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// OwnQuestion is what begins a flow of this machine's own, about which ExplainOwn is asked.
type OwnQuestion struct {
	To       netip.Addr
	Protocol uint8 // ICMP of either family is config.ProtocolICMP
	SrcPort  uint16
	DstPort  uint16
	Mark     uint32 // of the user's, that the program gives its socket
	// Who sends it; "" and 0 where nobody says.
	User, Cgroup, Program string
	PID                   int
}

// ownExplained is one ExplainOwn under way.
type ownExplained struct {
	OwnQuestion
	router *Router
	state  *State
	plan   *plan.Plan
	facts  plan.Host
	own    *loader.OwnExplainer
	judge  *nft.Judge
	sender loader.Sender
	by     loader.OwnRule // the rule about the sender
	ruled  bool           // there is one
	class  abi.Verdict    // of the socket
	short  bool           // it takes the short way
	hop    host.Hop
	from   netip.Addr
	fate   nft.OwnFate
	open   bool // Tor takes connections
	// verdict is what becomes of it with Tor ready.
	verdict abi.Verdict
	reason  abi.Reason
	rule    *config.Rule
}

// ExplainOwn says what becomes of what a program of this machine begins to send, by the maps of
// the programs in force and by the rules of nftables that are found to be there. It sends
// nothing, changes nothing, is counted nowhere and takes no lock.
func (r *Router) ExplainOwn(q OwnQuestion) (*Explanation, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	if !s.usesClient() || s.Blocked {
		return nil, fmt.Errorf("what this machine itself sends is not on Tor, so torbpf does not judge it: torbpf attach --client: %w", ErrNotAttached)
	}
	x := &ownExplained{OwnQuestion: q, router: r, state: s}
	if err := x.look(); err != nil {
		return nil, err
	}
	defer x.own.Close()
	if err := x.decide(); err != nil {
		return nil, err
	}
	return x.explanation(), nil
}

// look reads the host, opens what is in force, and completes the question.
func (x *ownExplained) look() error {
	var err error
	if x.facts, err = host.Read(); err != nil {
		return fmt.Errorf("read the host: %w", err)
	}
	s := x.state.clone()
	s.followRenames(x.facts)
	if x.plan, err = x.router.planFor(s, x.facts); err != nil {
		return fmt.Errorf("the host no longer fits the configuration: %w", err)
	}
	if err := x.complete(); err != nil {
		return err
	}
	if err := x.findSender(); err != nil {
		return err
	}
	judge, differences, err := nft.InForce(x.plan)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return fmt.Errorf("nftables has not what was planned (%s), so what holds now is nobody's rule: run `torbpf attach` once more, which repairs it", differences[0])
	}
	x.judge = judge
	d, err := x.router.datapath(s.Config.Clsact)
	if err != nil {
		return err
	}
	open, err := d.GatesOpen(1) // the first tor is this machine's own
	if err != nil {
		return err
	}
	x.open = open[0]
	if x.own, err = d.OwnExplainer(); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the programs of client mode are not to be found below %s: run `torbpf attach` once more: %w", d.Dir(), err)
	}
	return err
}

// complete fills in what the question leaves open, and refuses what makes no packet.
func (x *ownExplained) complete() error {
	if x.Protocol == config.ProtocolICMP && x.To.Is6() {
		x.Protocol = unix.IPPROTO_ICMPV6
	}
	service := config.Service{Protocol: x.Protocol}
	switch {
	case service.HasPorts() && x.DstPort == 0:
		return config.Invalid("which port? name it with --dport")
	case !service.HasPorts() && (x.DstPort != 0 || x.SrcPort != 0):
		return config.Invalid("protocol %s has no ports that are looked at", config.ProtocolName(x.Protocol))
	case x.Mark&x.plan.Mark.Mask() != 0:
		return config.Invalid("--mark %#x: it has bits of torbpf's own, %#x, which programs are given and do not choose", x.Mark, x.plan.Mark.Mask())
	}
	if service.HasPorts() && x.SrcPort == 0 {
		x.SrcPort = anySourcePort
	}
	return nil
}

// decide goes the way of what is sent: the socket, connect(), the route, nftables.
func (x *ownExplained) decide() error {
	var err error
	if x.by, x.ruled, err = x.own.Sender(x.sender); err != nil {
		return err
	}
	mark := x.Mark | x.socketBits()
	to := netip.AddrPortFrom(x.To, x.DstPort)
	packet := nft.OwnPacket{Protocol: x.Protocol, Dst: to, Mark: mark, Hops: hopsTo(x.To)}
	if x.Protocol == unix.IPPROTO_TCP {
		if x.short, err = x.own.ShortWay(to, x.Mark, x.class); err != nil {
			return err
		}
	}
	if x.short {
		packet.Dst = netip.AddrPortFrom(loopbackOf(x.To), x.plan.Ports.Trans)
	}
	if x.hop, x.from, err = host.Sending(packet.Dst.Addr(), mark, x.sender.User); err != nil {
		return config.Invalid("no route leads to %s, so a program is told that by the call itself, and nothing is sent: %v", x.To, err)
	}
	packet.Src = netip.AddrPortFrom(x.from, x.SrcPort)
	packet.Interface = linkName(x.facts, x.hop.Index)
	if x.fate, err = x.judge.Judge(packet, time.Now()); err != nil {
		return fmt.Errorf("go through the rules of nftables: %w", err)
	}
	x.verdict, x.reason = x.judged()
	x.rule = x.decidedBy()
	return nil
}

// socketBits are those that the programs write into the socket's mark.
func (x *ownExplained) socketBits() uint32 {
	var instance uint32
	switch {
	case !x.ruled:
		x.class = abi.VerdictNone
	case x.by.Policy != abi.PolicyDirect:
		x.class = abi.VerdictTor
	default:
		x.class = abi.VerdictDirect
		if x.by.Tor {
			instance = abi.OwnOfTor
		}
	}
	return x.plan.Mark.Bits(uint32(x.class), instance)
}

// hopsTo is how many the kernel gives a packet, unless its program says otherwise.
func hopsTo(to netip.Addr) uint8 {
	const ordinary, group = 64, 1
	if to.IsMulticast() {
		return group
	}
	return ordinary
}

func loopbackOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// judged turns where the packet has ended into a verdict, with Tor ready.
func (x *ownExplained) judged() (abi.Verdict, abi.Reason) {
	switch {
	case !x.fate.Passed:
		return abi.VerdictRefused, x.fate.Reason
	case x.short:
		return abi.VerdictTor, abi.ReasonTCP
	case x.fate.Reason == abi.ReasonRouterAddress:
		return abi.VerdictLocal, x.fate.Reason
	case x.fate.Reason == abi.ReasonExemptMark:
		return abi.VerdictDirect, x.fate.Reason
	case x.fate.Reason == abi.ReasonDirectDestination && x.destinationRule() == nil:
		return x.fate.Class, abi.ReasonReservedOpen
	}
	return x.fate.Class, x.fate.Reason
}

// now is the verdict as it is: while the gate is shut the kernel resets what comes to TransPort,
// and the sentry answers that it cannot say.
func (x *ownExplained) now() (abi.Verdict, abi.Reason) {
	if !x.open && slices.Contains([]abi.Verdict{abi.VerdictTor, abi.VerdictOnion, abi.VerdictResolver}, x.verdict) {
		return abi.VerdictRefused, abi.ReasonTorNotReady
	}
	return x.verdict, x.reason
}

// explanation puts all of it into words.
func (x *ownExplained) explanation() *Explanation {
	verdict, reason := x.now()
	e := &Explanation{
		Schema: explainSchema,
		Packet: Packet{
			Sender: x.senderWords(), From: x.from.String(), To: x.To.String(), Protocol: config.ProtocolName(x.service().Protocol),
			SrcPort: x.SrcPort, DstPort: x.DstPort, Mark: x.Mark,
		},
		Judgement: judgement(verdict, reason),
		Decided:   x.decided(),
		Rule:      x.rule,
		Answer:    x.answer(),
		Then:      x.then(),
		Depends:   append([]string{}, x.depends()...),
		Change:    append([]Advice{}, x.change()...),
		Notes:     append([]string{}, x.notes()...),
	}
	if reason != x.reason {
		ready := judgement(x.verdict, x.reason)
		e.Ready = &ready
	}
	return e
}
