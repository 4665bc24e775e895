package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// ErrFirewall says that the user's own firewall drops what is diverted to Tor.
var ErrFirewall = errors.New("a firewall on this host drops what is diverted to Tor")

// checkFirewall finds out, by a packet of each kind, whether what a LAN sends
// to Tor gets through the host's own input chains. It would be in nobody's
// interest to let the LAN find out by timeouts. The packets go to an address of
// the .onion range, which is diverted before the tc programs are there; once they
// are, the gate may stop a packet for its own reasons, so only new LANs are asked.
func (j *job) checkFirewall(context.Context) error {
	if j.state.Config.SkipFirewallProbe {
		return nil
	}
	chains, err := nft.ForeignInputChains()
	if err != nil {
		return err
	}
	lans, err := j.askedLANs()
	if err != nil {
		return err
	}
	for _, lan := range lans {
		probes, frames := j.probes(lan)
		if len(probes) == 0 {
			continue
		}
		arrived, err := j.arrived(lan, probes, frames)
		if err != nil {
			return err
		}
		if err := j.explainFirewall(lan, probes, arrived, chains); err != nil {
			return err
		}
	}
	return nil
}

// askedLANs are those that are new; and where TCP is to be handed over from now on, of which the host's
// firewall sees something else than of a redirect, all, if the gate lets their probes in.
func (j *job) askedLANs() ([]plan.LAN, error) {
	switched := j.plan.TProxy && j.before != nil && j.before.Config.Tor.TCPMode != config.TCPTProxy
	if !switched {
		return j.newLANs(), nil
	}
	open, err := j.datapath.GatesOpen(len(j.plan.Tors()))
	if err != nil || !slices.Contains(open, true) {
		return j.newLANs(), err
	}
	return j.plan.LANs, nil
}

// arrived injects the probes of a LAN and tells which got through. One that is handed to a
// socket needs one: the guards let nothing in that nobody waits for in its name.
func (j *job) arrived(lan plan.LAN, probes []nft.Probe, frames [][]byte) (map[string]bool, error) {
	for i, p := range probes {
		if !p.Untracked {
			continue
		}
		listener, err := sockets.ListenFor(netip.AddrPortFrom(p.Dst, probePort))
		if err != nil {
			return nil, fmt.Errorf("wait for probe %s: %w", probes[i].Name, err)
		}
		defer listener.Close()
	}
	return nft.Arrived(probes, func() error {
		for i, frame := range frames {
			var mark uint32 // the redirect needs none
			if probes[i].Untracked {
				mark = j.plan.Mark.Class(uint32(abi.VerdictOnion))
			}
			if err := loader.Inject(lan.Index, frame, mark); err != nil {
				return err
			}
		}
		return nil
	})
}

// explainFirewall says which rule to add where, if a probe did not arrive.
func (j *job) explainFirewall(lan plan.LAN, probes []nft.Probe, arrived map[string]bool, chains []string) error {
	lost := lostProbes(probes, arrived, !slices.ContainsFunc(j.newLANs(), func(l plan.LAN) bool { return l.Index == lan.Index }))
	if len(lost) == 0 {
		return nil
	}
	lacking := fmt.Errorf("%w (from %s: %s)", ErrFirewall, lan.Name, strings.Join(lost, ", "))
	if len(chains) == 0 {
		return fmt.Errorf("%w: nftables has no input chain, so look at `iptables-legacy -S INPUT` and at the programs that `bpftool net` and `tc filter` list; or attach with --skip-firewall-probe", lacking)
	}
	var rules strings.Builder
	for _, c := range chains {
		for _, rule := range lettingIn(j.plan, c, lan.Name) {
			rules.WriteString("\n  " + rule)
		}
	}
	return fmt.Errorf("%w: allow it with the rules below that name the chain at fault, or attach with --skip-firewall-probe%s",
		lacking, rules.String())
}

// lostProbes names those that did not arrive. Where the LAN's program judges them, it has each device use one
// tor, and refuses what is for others: of a kind one is to arrive.
func lostProbes(probes []nft.Probe, arrived map[string]bool, judged bool) []string {
	kind := func(p nft.Probe) string { return strings.Fields(p.Name)[0] }
	one := make(map[string]bool)
	for _, p := range probes {
		one[kind(p)] = one[kind(p)] || judged && arrived[p.Name]
	}
	var lost []string
	for _, p := range probes {
		if !arrived[p.Name] && !one[kind(p)] {
			lost = append(lost, p.Name)
		}
	}
	return lost
}

// lettingIn are the rules by which a chain lets in what is diverted.
func lettingIn(p *plan.Plan, chain, lan string) []string {
	tcp, udp := diverted(p)
	return []string{
		fmt.Sprintf("nft insert rule %s iifname %q %s accept", chain, lan, tcpMatch(p, tcp)),
		fmt.Sprintf("nft insert rule %s iifname %q udp dport '{ %s }' accept", chain, lan, udp),
	}
}

// diverted lists the ports to which something is diverted.
func diverted(p *plan.Plan) (tcp, udp string) {
	var trans, dns []string
	for _, t := range p.Tors() {
		trans, dns = append(trans, fmt.Sprint(t.Trans)), append(dns, fmt.Sprint(t.DNS))
	}
	resolver := fmt.Sprint(p.Ports.Resolver)
	return strings.Join(append(trans, resolver), ", "), strings.Join(append(dns, resolver), ", ")
}

// tcpMatch is what of TCP a firewall has to let in, in the words of nft; ports are those to which some is
// redirected.
func tcpMatch(p *plan.Plan, ports string) string {
	if !p.TProxy {
		return fmt.Sprintf("tcp dport '{ %s }'", ports)
	}
	return fmt.Sprintf("meta mark and %#x == '{ %#x, %#x, %#x }'", p.Mark.ClassMask(), p.Mark.Class(uint32(abi.VerdictTor)),
		p.Mark.Class(uint32(abi.VerdictOnion)), p.Mark.Class(uint32(abi.VerdictResolver)))
}

// probes returns what to inject into a LAN: a packet for each TransPort and one for
// DNSPort, for each family that the LAN has.
func (j *job) probes(lan plan.LAN) ([]nft.Probe, [][]byte) {
	var probes []nft.Probe
	var frames [][]byte
	add := func(name string, protocol byte, src, dst netip.Addr) {
		probes = append(probes, nft.Probe{Name: name, Dst: dst, Protocol: protocol, Untracked: j.plan.TProxy && protocol == unix.IPPROTO_TCP})
		frames = append(frames, probeFrame(lan, protocol, src, dst))
	}
	src4, ok4 := neighbour(lan, lan.Addr4)
	src6, ok6 := neighbour(lan, lan.Addr6)
	for i, t := range j.plan.Tors() {
		of := ""
		if i > 0 {
			of = fmt.Sprintf(" of tor %d", i)
		}
		if ok4 {
			add("tcp4"+of, unix.IPPROTO_TCP, src4, t.Onion4.Addr().Next())
		}
		if ok6 && !src6.IsLinkLocalUnicast() {
			add("tcp6"+of, unix.IPPROTO_TCP, src6, t.Onion6.Addr().Next())
		}
	}
	if ok4 {
		add("udp4", unix.IPPROTO_UDP, src4, j.plan.Onion4.Addr().Next())
	}
	if ok6 && !src6.IsLinkLocalUnicast() {
		add("udp6", unix.IPPROTO_UDP, src6, j.plan.Onion6.Addr().Next())
	}
	return probes, frames
}

// neighbour returns another address of the subnet that one of the router's is
// in; a foreign source would not get past the LAN program.
func neighbour(lan plan.LAN, a netip.Addr) (netip.Addr, bool) {
	if !a.IsValid() {
		return netip.Addr{}, false
	}
	b := a.AsSlice()
	b[len(b)-1] ^= 1
	n, _ := netip.AddrFromSlice(b)
	behind := slices.ContainsFunc(lan.Prefixes, func(p netip.Prefix) bool { return p.Contains(n) })
	return n, behind
}

// probePort is that of TCP.
const probePort = 80

// probeFrame builds a SYN to port 80 or a UDP datagram to port 53. Their
// checksums are right: conntrack would take no notice of the packet otherwise.
func probeFrame(lan plan.LAN, protocol byte, src, dst netip.Addr) []byte {
	const sourcePort = 40000
	var l4 []byte
	checksumAt := 16
	if protocol == unix.IPPROTO_TCP {
		l4 = make([]byte, 20)
		binary.BigEndian.PutUint16(l4[2:], probePort)
		l4[12], l4[13] = 5<<4, 0x02 // data offset, SYN
		binary.BigEndian.PutUint16(l4[14:], 1024)
	} else {
		l4 = make([]byte, 8)
		binary.BigEndian.PutUint16(l4[2:], config.PortDNS)
		binary.BigEndian.PutUint16(l4[4:], 8)
		checksumAt = 6
	}
	binary.BigEndian.PutUint16(l4, sourcePort)
	pseudo := append(append([]byte{}, src.AsSlice()...), dst.AsSlice()...)
	pseudo = append(pseudo, 0, protocol, 0, byte(len(l4)))
	binary.BigEndian.PutUint16(l4[checksumAt:], checksum(append(pseudo, l4...)))

	frame := append(append([]byte{}, lan.MAC[:]...), 0x02, 0, 0, 0, 0, 1)
	if src.Is4() {
		frame = append(frame, 0x08, 0x00)
		ip := []byte{0x45, 0, 0, byte(20 + len(l4)), 0, 0, 0x40, 0, 64, protocol, 0, 0}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(frame, ip...), l4...)
	}
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(l4)), protocol, 64)
	frame = append(append(frame, src.AsSlice()...), dst.AsSlice()...)
	return append(frame, l4...)
}

// checksum is that of RFC 1071; all that is summed here has an even length.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
