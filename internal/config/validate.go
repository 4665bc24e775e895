package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// ErrInvalid is wrapped by all that Validate and the parsers return: what no
// host could make good.
var ErrInvalid = errors.New("invalid configuration")

// Invalid is an error that wraps ErrInvalid without ending in its words: what is wrong and
// what to write instead has been said.
func Invalid(format string, args ...any) error { return invalid{fmt.Errorf(format, args...)} }

type invalid struct{ error }

// Unwrap makes errors.Is find ErrInvalid, and what the text was made of.
func (e invalid) Unwrap() []error { return []error{e.error, ErrInvalid} }

// FieldError is one setting that cannot be used.
type FieldError struct {
	Field   string // as in the JSON of a Config, e.g. "tor.trans_port"
	Problem string // what, why and what to write instead
}

// Error names the setting and its problem.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Unwrap makes errors.Is find ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// The spaces virtual ranges may lie in: what no public host owns and what
// hosts send to their default gateway like any other address. Elsewhere the
// range would take real sites away (public space) or never leave the client
// (loopback, link-local, multicast, class E).
var (
	onionSpace4 = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")
	onionSpace6 = prefixes("fc00::/7", "2001:2::/48")
)

// The longest prefixes that tor takes for VirtualAddrNetworkIPv4 and
// VirtualAddrNetworkIPv6 (tor manual).
const (
	onionBits4 = 16
	onionBits6 = 104
)

// maxShift is the highest place of eight bits in a mark of 32.
const maxShift = 24

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Validate judges all that needs no host and reports every problem, joined.
// Each is a *FieldError.
func (c Config) Validate() error {
	v := &validation{}
	v.interfaces(c)
	v.modes(c)
	v.tor(c.Tor)
	v.bridges(c.Tor)
	v.tcpMode(c)
	v.ports(c)
	v.onion("tor.onion4", c.Tor.Onion4, longestOnion(true, c.Tor.Instances.Most()), onionSpace4)
	v.onion("tor.onion6", c.Tor.Onion6, longestOnion(false, c.Tor.Instances.Most()), onionSpace6)
	v.rules(c)
	v.devices(c)
	v.web(c.Web)
	return errors.Join(v.problems...)
}

// validation collects problems.
type validation struct{ problems []error }

func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (v *validation) interfaces(c Config) {
	for _, name := range c.Interfaces {
		v.name("interfaces", PatternPrefix(name))
		if IsPattern(name) && len(c.Uplinks) == 0 {
			v.add("uplinks", "is empty, but %s may stand for an interface that leads outside while it has no default route: name those that do", name)
		}
	}
	for _, name := range c.Uplinks {
		v.name("uplinks", name)
		if slices.Contains(c.Interfaces, name) {
			v.add("uplinks", "%s is to be torified as well, and an interface cannot be both: take it out of one of the two lists", name)
		}
	}
}

// name refuses what the kernel takes for no interface name; such a name would
// also be read as something else by nft.
func (v *validation) name(field, name string) {
	if !isInterfaceName(name) {
		v.add(field, "%q is %s", name, noInterfaceName)
	}
}

const noInterfaceName = "no interface name (1 to 15 characters without blanks, quotes, / and :): ip link lists them"

func isInterfaceName(name string) bool {
	odd := strings.IndexFunc(name, func(r rune) bool {
		return r == '*' || r == '/' || r == ':' || r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
	return name != "" && name != "." && name != ".." && len(name) <= 15 && odd < 0
}

func (v *validation) modes(c Config) {
	if !slices.Contains([]Early{EarlyAuto, EarlyOff, EarlyNative, EarlyGeneric}, c.Early) {
		v.add("early_refusal", "%q is none of %s, %s, %s, %s", c.Early, EarlyAuto, EarlyOff, EarlyNative, EarlyGeneric)
	}
	if !slices.Contains([]FastPath{FastPathAuto, FastPathFlowtable, FastPathOff}, c.FastPath) {
		v.add("fastpath", "%q is none of %s, %s, %s", c.FastPath, FastPathAuto, FastPathFlowtable, FastPathOff)
	}
	if !slices.Contains([]LocalMode{LocalConnected, LocalReserved, LocalNone}, c.Local) {
		v.add("local", "%q is none of %s, %s, %s", c.Local, LocalConnected, LocalReserved, LocalNone)
	}
	if c.MarkShift%4 != 0 || c.MarkShift > maxShift {
		v.add("mark_shift", "%d does not place eight bits on a nibble of the mark: use 0, 4, 8, 12, 16, 20 or 24", c.MarkShift)
	}
}

func (v *validation) tor(t Tor) {
	switch t.Mode {
	case TorManaged:
		if t.Binary == "" {
			v.add("tor.binary", "is empty: name the tor program, usually tor")
		}
		if t.Control != "" {
			v.add("tor.control", "%s is of a running tor, which mode %s does not use: set tor.mode %s (--tor system) as well", t.Control, TorManaged, TorSystem)
		}
	case TorSystem:
		if t.Torrc != "" {
			v.add("tor.torrc", "%s would be ignored: the running tor reads its own torrc, add the lines there or use tor.mode %s", t.Torrc, TorManaged)
		}
		if t.Instances.Most() > 1 {
			v.add("tor.instances", "is %s, but a tor that runs already is one, and torbpf starts none beside it: use tor.mode %s, or leave instances (--tor-instances) at 1", t.Instances, TorManaged)
		}
	default:
		v.add("tor.mode", "%q is none of %s, %s", t.Mode, TorManaged, TorSystem)
	}
	if t.Torrc != "" && !filepath.IsAbs(t.Torrc) {
		v.add("tor.torrc", "%s is relative to a directory that a service does not share: write the whole path", t.Torrc)
	}
	if n := t.Instances.Most(); n > MaxInstances {
		v.add("tor.instances", "is %d, and a mark has room to tell %d apart: write 1 to %d, or %s", n, MaxInstances, MaxInstances, autoInstances)
	}
	if t.Timeout < 0 {
		v.add("tor.timeout", "%s is negative: write a duration such as 2m0s", t.Timeout)
	}
}

// tcpMode refuses beside tproxy what needs NAT: one tor takes its connections in one way, and
// what this machine itself sends is redirected; and a packet that was handed to a socket
// is forwarded no more, whatever mark a later rule gives it.
func (v *validation) tcpMode(c Config) {
	switch c.Tor.TCPMode {
	case TCPRedirect:
		return
	case TCPTProxy:
	default:
		v.add("tor.tcp_mode", "%q is none of %s, %s", c.Tor.TCPMode, TCPRedirect, TCPTProxy)
		return
	}
	if c.Client.Enable {
		v.add("tor.tcp_mode", "%s is for what LANs send alone, and the same tor cannot take what this machine itself sends: choose %s (--tcp-mode), or take this machine off Tor (--client=false)", TCPTProxy, TCPRedirect)
	}
	for _, r := range c.Rules.OfLANs().Of(KindMark) {
		v.add("tor.tcp_mode", "%s has given a packet to tor before your own rules can mark it, so the exclusion of mark %s would not hold: choose %s (--tcp-mode), or take the mark out", TCPTProxy, r.Entry, TCPRedirect)
	}
}

// ports refuses 53 as well: what a LAN sends to port 53 of the router itself is
// dropped at delivery, as DNS that nobody redirected to Tor.
func (v *validation) ports(c Config) {
	t := c.Tor
	taken := map[uint16]string{}
	for _, p := range []struct {
		field string
		port  uint16
	}{
		{"tor.trans_port", t.TransPort}, {"tor.dns_port", t.DNSPort}, {"tor.resolver_port", t.ResolverPort}, {"client.proxy_port", c.Client.ProxyPort},
	} {
		switch other, ok := taken[p.port]; {
		case p.port == 0 && p.field == "client.proxy_port": // there is none
		case p.port == 0:
			v.add(p.field, "is 0, but packets are redirected to a fixed port: choose 1 to 65535")
		case p.port == PortDNS:
			v.add(p.field, "is 53, where DNS from a LAN that escaped the redirect is dropped: choose another")
		case ok:
			v.add(p.field, "is %d like %s, and each needs its own: choose another", p.port, other)
		default:
			taken[p.port] = p.field
		}
	}
	v.instancePorts(t, taken)
}

// instancePorts are those of all tors but the first. "auto" may become as many as there can be.
func (v *validation) instancePorts(t Tor, taken map[uint16]string) {
	for i := 1; i < min(t.Instances.Most(), MaxInstances); i++ {
		for _, first := range []struct {
			field string
			port  uint16
		}{{"tor.trans_port", t.TransPort}, {"tor.dns_port", t.DNSPort}} {
			port := PortOf(first.port, i)
			other, ok := taken[port]
			switch {
			case port < first.port:
				v.add(first.field, "is %d, which leaves no port for tor %d, whose is %d higher: choose a lower one", first.port, i, portStride*i)
				return
			case ok:
				v.add(first.field, "is %d, so that of tor %d is %d like %s: choose another", first.port, i, port, other)
			}
			taken[port] = fmt.Sprintf("%s of tor %d", first.field, i)
		}
	}
}

// onion judges a virtual range; the zero prefix asks for one to be chosen.
func (v *validation) onion(field string, p netip.Prefix, bits int, space []netip.Prefix) {
	if p == (netip.Prefix{}) {
		return
	}
	inside := slices.ContainsFunc(space, func(s netip.Prefix) bool { return PrefixCovers(s, p) })
	switch {
	case !p.IsValid() || p.Addr().Is4() != space[0].Addr().Is4():
		v.add(field, "%s is of the wrong family: choose a range like %s", p, space[0])
	case p != p.Masked():
		v.add(field, "%s has bits set beyond the first %d: did you mean %s?", p, p.Bits(), p.Masked())
	case !inside:
		v.add(field, "%s is not within private space that clients send to their gateway: choose a part of %s", p, join(space))
	case p.Bits() > bits:
		v.add(field, "%s is too small, tor takes /%d and shorter, or of several tors each would get too little: did you mean %s?",
			p, bits, netip.PrefixFrom(p.Addr(), bits).Masked())
	}
}

func join(list []netip.Prefix) string {
	words := make([]string, 0, len(list))
	for _, p := range list {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

// rules judges each by itself. Host bits are masked later: what was typed has passed
// ParsePrefix.
func (v *validation) rules(c Config) {
	if len(c.Rules.Of(KindDomain)) > 0 && !c.Resolver.IsValid() {
		v.add("exclusions.resolver", "is missing: names that are excluded are asked of a resolver of your choice, in clear, such as that of your provider (--resolver)")
	}
	if c.Resolver.IsValid() && (c.Resolver.IsMulticast() || c.Resolver.IsUnspecified()) {
		v.add("exclusions.resolver", "%s is no resolver's address", c.Resolver)
	}
	if n := len(c.Rules.Of(KindList)); n > MaxLists {
		v.add("exclusions.lists", "there are %d lists, and at most %d can be used: join some files", n, MaxLists)
	}
	for _, r := range c.Rules {
		if problem := r.problem(c); problem != "" {
			v.problems = append(v.problems, &FieldError{Field: r.field(), Problem: problem})
		}
	}
	v.everything(c)
}

// field is where a rule stands in a configuration: its origin, if that is known.
func (r Rule) field() string {
	if r.Origin != "" {
		return r.Origin
	}
	return "rules." + string(r.Kind)
}

// problem says what is wrong with a rule and what to write instead; "" for nothing.
func (r Rule) problem(c Config) string {
	again, err := ParseEntry(r.Kind, r.masked().String())
	again.Client = again.Client || r.Client
	switch {
	case err != nil:
		return err.Error()
	case again != r.masked():
		return fmt.Sprintf("holds an invalid %s", r.Kind)
	case r.Client && !slices.Contains(clientKinds, r.Kind):
		return fmt.Sprintf("%s %s is about LANs, and nothing that this machine itself sends has one: it belongs among the other exclusions, without --client", r.Kind, r.Entry)
	case !slices.Contains(r.Kind.policies(), r.Policy):
		return fmt.Sprintf("%s %s cannot be %q: for a %s there is %s", r.Kind, r.Entry, r.Policy, r.Kind, joinPolicies(r.Kind.policies()))
	case r.Kind == KindInterface && slices.Contains(c.Interfaces, r.Interface):
		return fmt.Sprintf("%s is to be torified, so nothing that leaves by it goes outside: name an interface that leads there, such as wg0", r.Interface)
	}
	return ""
}

func (e Entry) masked() Entry {
	e.Prefix = e.Prefix.Masked()
	return e
}

// policies are those that rules of a kind may have.
func (k Kind) policies() []Policy {
	switch k {
	case KindUser, KindCgroup, KindProgram:
		return []Policy{PolicyDirect, PolicyTor}
	case KindSource, KindDevice:
		return []Policy{PolicyDirect, PolicyTor, PolicyBlock}
	case KindDestination, KindPort:
		return []Policy{PolicyDirect, PolicyTor}
	}
	return []Policy{PolicyDirect}
}

func joinPolicies(list []Policy) string {
	words := make([]string, 0, len(list))
	for _, p := range list {
		words = append(words, string(p))
	}
	return strings.Join(words, ", ")
}
