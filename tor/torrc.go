package tor

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/torbpf/torbpf/internal/kernel"
)

// directive is a line of a torrc. A list directive adds to those of its name
// that stand above; any other replaces them.
type directive struct {
	key, value string
	list       bool
}

// directives are what torbpf needs of tor. With v6 false nothing listens on
// IPv6 addresses.
func (o Options) directives(v6 bool) []directive {
	out := []directive{
		{key: "RunAsDaemon", value: "0"}, // it has a session of its own already; we watch it start
		{key: "DataDirectory", value: o.DataDir},
		{key: "CacheDirectory", value: o.DataDir},
		{key: "ControlSocket", value: SocketPath(o.Dir), list: true},
		{key: "ControlSocketsGroupWritable", value: "1"},
		{key: "CookieAuthentication", value: "1"},
		{key: "CookieAuthFile", value: o.cookiePath()},
		{key: "CookieAuthFileGroupReadable", value: "1"},
		// A tor that slept when it was stopped would start asleep and never
		// finish its bootstrap, and no client could wake it through a closed gate.
		{key: "DormantCanceledByStartup", value: "1"},
		o.transProxyType(),
	}
	out = append(out, o.listeners(v6)...)
	out = append(out, policy(o.AllowFrom)...)
	out = append(out, o.bridges...)
	return append(out, automap(o.Onion4, o.Onion6)...)
}

// transProxyType says whom tor asks where a connection was to go: conntrack, which has
// redirected it, or its own socket, which was given it as it was.
func (o Options) transProxyType() directive {
	if o.TProxy {
		return directive{key: "TransProxyType", value: "TPROXY"}
	}
	return directive{key: "TransProxyType", value: "default"}
}

// listeners are on the wildcard: nft's redirect picks an address of the
// interface that nobody can name in advance. The policy keeps others out. What is handed to
// a socket asks for no address: then TransPort is on loopback.
func (o Options) listeners(v6 bool) []directive {
	var out []directive
	for _, l := range []struct {
		key      string
		port     uint16
		loopback bool
	}{{"TransPort", o.Ports.Trans, o.TProxy}, {"DNSPort", o.Ports.DNS, false}} {
		on4, on6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
		if l.loopback {
			on4, on6 = loopback4, netip.IPv6Loopback()
		}
		out = append(out, directive{l.key, netip.AddrPortFrom(on4, l.port).String(), true})
		if v6 {
			out = append(out, directive{l.key, netip.AddrPortFrom(on6, l.port).String(), true})
		}
	}
	return out
}

// hasIPv6 says whether listeners can be had for IPv6.
func (o Options) hasIPv6() bool {
	if o.TProxy {
		return kernel.HasLoopback6()
	}
	return kernel.HasIPv6()
}

// loopback4 is where a TransPort is that nobody needs to reach.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// policy answers the given sources and nobody else. Without its last line tor
// accepts all, and the WAN would find an open proxy once nft is flushed.
func policy(from []netip.Prefix) []directive {
	var out []directive
	for _, p := range from {
		p = p.Masked()
		if p.Addr().Is4() {
			out = append(out, directive{"SocksPolicy", fmt.Sprintf("accept %s", p), true})
		} else {
			out = append(out, directive{"SocksPolicy", fmt.Sprintf("accept6 [%s]/%d", p.Addr(), p.Bits()), true})
		}
	}
	return append(out, directive{"SocksPolicy", "reject *", true})
}

// automap answers names under .onion with addresses of the virtual ranges.
func automap(onion4, onion6 netip.Prefix) []directive {
	out := []directive{
		{key: "AutomapHostsOnResolve", value: "1"},
		{key: "AutomapHostsSuffixes", value: ".onion"},
	}
	if onion4.IsValid() {
		out = append(out, directive{key: "VirtualAddrNetworkIPv4", value: onion4.Masked().String()})
	}
	if onion6.IsValid() {
		p := onion6.Masked()
		out = append(out, directive{key: "VirtualAddrNetworkIPv6", value: fmt.Sprintf("[%s]/%d", p.Addr(), p.Bits())})
	}
	return out
}

// line returns the directive as a torrc has it.
func (d directive) line() string { return d.key + " " + d.value }

// Text renders the whole configuration as Start would write it, and asks tor nothing.
func (o Options) Text() (string, error) {
	o, extra, err := o.complete()
	if err != nil {
		return "", err
	}
	return o.torrc(extra, o.hasIPv6()), nil
}

// complete reads what the options name: the user's lines, and the programs that bridges need.
func (o Options) complete() (Options, *extraFile, error) {
	extra, err := readExtra(o.ExtraTorrc)
	if err != nil {
		return o, nil, err
	}
	if err := o.besideBridges(extra); err != nil {
		return o, nil, err
	}
	o, err = o.withBridges()
	return o, extra, err
}

// torrc renders the whole configuration. The user's lines come first: of two
// lines with one value tor obeys the later, and "/Key" empties a list, so
// that no spelling of theirs can undo ours.
func (o Options) torrc(extra *extraFile, v6 bool) string {
	var b strings.Builder
	b.WriteString("# Written by torbpf; changes made here are lost.\n")
	socks := false
	if extra != nil {
		fmt.Fprintf(&b, "\n# The lines of %s:\n", extra.path)
		for _, l := range extra.lines {
			if o.Beside && l.once() {
				continue
			}
			b.WriteString(l.text + "\n")
			socks = socks || l.key == "socksport"
		}
		b.WriteString("\n# torbpf's own lines are last, so that they hold. /Option empties a list.\n")
	}
	if !socks {
		b.WriteString("SocksPort 0\n")
	}
	fmt.Fprintf(&b, "Log notice file %s\n", logPath(o.Dir))
	cleared := map[string]bool{}
	for _, d := range o.directives(v6) {
		if extra != nil && d.list && !cleared[d.key] {
			b.WriteString("/" + d.key + "\n")
			cleared[d.key] = true
		}
		b.WriteString(d.line() + "\n")
	}
	return b.String()
}
