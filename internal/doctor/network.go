package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
)

// NoTimeServer is what attach says as well.
var NoTimeServer = Advise("no time server runs here, so devices that ask for the time by NTP are refused, and a wrong clock breaks TLS",
	"apt install chrony, and write `allow` into /etc/chrony/chrony.conf")

// name says whose a socket is.
func (l Listener) name() string {
	who := l.Process
	if who == "" {
		who = "somebody"
	}
	return fmt.Sprintf("%s (%d/%s)", who, l.Addr.Port(), l.Protocol)
}

func resolver(f *Facts) []Finding {
	var out []Finding
	var names []string
	for _, l := range f.Listening {
		if name := l.name(); l.Addr.Port() == config.PortDNS && !l.Ours && !l.Addr.Addr().IsLoopback() && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		out = append(out, note(fmt.Sprintf("%s answers DNS here: of devices on Tor it gets questions for local names alone; what it asks elsewhere is this machine's own, and in clear unless it encrypts", strings.Join(names, ", "))))
	}
	if f.Status.OwnDNS > 0 {
		out = append(out, note(fmt.Sprintf("this machine itself has sent %d packets of DNS by an uplink since attach, not by Tor", f.Status.OwnDNS), "torbpf attach --client"))
	}
	return out
}

func otherRouter(f *Facts) []Finding {
	if f.Plan == nil {
		return noPlan()
	}
	var out []Finding
	for _, r := range f.Routers {
		who := r.Addr.String()
		if r.MAC != "" {
			who += " (" + r.MAC + ")"
		}
		out = append(out, warning(fmt.Sprintf("on %s %s acts as a router: %s. A device that takes it for its own goes around torbpf", r.LAN, who, r.How),
			"switch router advertisements off there, or take it off that LAN"))
	}
	return out
}

func openPorts(f *Facts) []Finding {
	if f.Plan != nil && len(f.Plan.Uplinks) == 0 || f.Plan == nil && len(f.Listening) == 0 {
		return about("no uplink is known")
	}
	var out []Finding
	for _, uplink := range uplinksOf(f.Listening) {
		open := func(l Listener) bool { return !l.Ours && slices.Contains(l.From, uplink) }
		perhaps := func(l Listener) bool { return !l.Ours && slices.Contains(l.Perhaps, uplink) }
		if names := named(f.Listening, open); len(names) > 0 {
			out = append(out, warning(fmt.Sprintf("from %s anybody reaches %s", uplink, strings.Join(names, ", ")), f.closing(uplink, open)...))
		}
		if names := named(f.Listening, perhaps); len(names) > 0 {
			out = append(out, note(fmt.Sprintf("whether the firewall keeps %s from %s cannot be told from its rules", strings.Join(names, ", "), uplink)))
		}
	}
	return out
}

func uplinksOf(listening []Listener) []string {
	var out []string
	for _, l := range listening {
		out = append(out, l.From...)
		out = append(out, l.Perhaps...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func named(listening []Listener, which func(Listener) bool) []string {
	var out []string
	for _, l := range listening {
		if which(l) && !slices.Contains(out, l.name()) {
			out = append(out, l.name())
		}
	}
	return out
}

// closing are the rules that close ports towards an uplink: in the chain that is there, or in
// one of their own.
func (f *Facts) closing(uplink string, which func(Listener) bool) []string {
	chain, out := "inet closed input", []string{}
	if len(f.Firewall.Input) > 0 {
		chain = f.Firewall.Input[0]
	} else {
		out = append(out, "nft add table inet closed", "nft add chain inet closed input '{ type filter hook input priority 0; }'")
	}
	for _, protocol := range []string{"tcp", "udp"} {
		var ports []string
		for _, l := range f.Listening {
			if port := fmt.Sprint(l.Addr.Port()); l.Protocol == protocol && which(l) && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
		if len(ports) > 0 {
			out = append(out, fmt.Sprintf("nft insert rule %s iifname %q %s dport '{ %s }' drop", chain, uplink, protocol, strings.Join(ports, ", ")))
		}
	}
	return out
}
