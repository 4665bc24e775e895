package router

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// kindFlag is the flag of `torbpf exclude` by which entries of a kind are named.
func kindFlag(kind config.Kind) string {
	if kind == config.KindDestination {
		return ""
	}
	return "--" + string(kind) + " "
}

// change lists what to type for another outcome, the narrowest first.
func (x *explained) change() []Advice {
	var out []Advice
	if x.said.Reason == abi.ReasonTorNotReady {
		out = append(out, Advice{"sudo torbpf status", "shows how far Tor is"})
	}
	r := x.rules.rule
	if r != nil {
		out = append(out, x.changeRule(*r)...)
	}
	if r == nil || r.Policy == config.PolicyTor { // the latter keeps it from wider rules only
		out = append(out, x.changeReason()...)
	}
	return out
}

// changeReason is what helps where no rule lets the packet out.
func (x *explained) changeReason() []Advice {
	switch x.reason {
	case abi.ReasonTCP, abi.ReasonUDP, abi.ReasonQUIC, abi.ReasonICMP, abi.ReasonProtocol, abi.ReasonLateMark, abi.ReasonInboundReply:
		return append(x.openPort(), x.openWider()...)
	case abi.ReasonNTP:
		server := Advice{"apt install chrony", "with `allow` in its configuration the router answers NTP itself"}
		return append([]Advice{server}, append(x.openPort(), x.openWider()...)...)
	case abi.ReasonDNSUDP, abi.ReasonDNSTCP, abi.ReasonDNSNoData, abi.ReasonDNSLocal:
		if x.toRouter() { // no rule for a port is about the router
			return append(x.openName(), x.openSource()...)
		}
		return append(x.openPort(), x.openSource()...)
	case abi.ReasonFragment:
		return x.openWider()
	case abi.ReasonPrivate:
		return append(append(x.openPort(), x.openWider()...), x.changeLocal()...)
	case abi.ReasonLocalSubnet, abi.ReasonReservedOpen:
		return x.changeLocal()
	case abi.ReasonDirectList:
		return []Advice{{fmt.Sprintf("sudo torbpf exclude add %s --policy tor", x.To), "keeps this with Tor, and leaves the rest to the lists"}}
	case abi.ReasonForeignSource:
		return []Advice{{"sudo torbpf attach " + x.lan.Name, fmt.Sprintf("once %s has an address or a route for this source", x.lan.Name)}}
	default:
		return nil
	}
}

// changeRule takes a rule away, or this packet out of it.
func (x *explained) changeRule(r config.Rule) []Advice {
	effect := "without it the next wider rule counts, or none"
	if !r.Runtime && r.Origin != "" {
		effect += fmt.Sprintf("; for good only by taking it out of %s", r.Origin)
	}
	remove := Advice{"sudo torbpf exclude del " + kindFlag(r.Kind) + r.String(), effect}
	if r.Kind == config.KindDevice && r.Policy != config.PolicyTor {
		remove = Advice{"sudo torbpf device tor " + x.deviceWords(r.MAC), "puts the device back on Tor" + strings.TrimPrefix(effect, "without it the next wider rule counts, or none")}
	}
	if x.keptDevice() { // without its rule it would be Tor's all the same
		return []Advice{{"sudo torbpf device allow " + x.deviceWords(r.MAC) + " --for 10m", "lets all of this device go direct for ten minutes, its DNS included"}}
	}
	if r.Policy == config.PolicyTor {
		return []Advice{remove}
	}
	kept := func(what string) Advice {
		return Advice{"sudo torbpf exclude add " + what + " --policy tor", "keeps this with Tor, and leaves the rest to that rule"}
	}
	switch {
	case r.Kind == config.KindDestination && !r.Prefix.IsSingleIP():
		return []Advice{kept(x.To.String()), remove}
	case r.Kind == config.KindPort && (!r.Prefix.IsValid() || !r.Prefix.IsSingleIP()):
		return []Advice{kept("--port " + x.port()), remove}
	case r.Kind == config.KindSource && !r.Prefix.IsSingleIP():
		return []Advice{kept("--source " + x.From.String()), remove}
	}
	return []Advice{remove}
}

// deviceWords is what commands call a device.
func (x *explained) deviceWords(mac config.MAC) string {
	return cmp.Or(x.state.Config.DeviceName(mac), mac.String())
}

// port is a rule's entry for this port, or protocol, of this destination.
func (x *explained) port() string { return fmt.Sprintf("%s@%s", x.service(), x.To) }

func (x *explained) openPort() []Advice {
	return []Advice{{"sudo torbpf exclude add --port " + x.port(), "lets it go direct, in clear"}}
}

// openWider are the rules that let out more than this packet.
func (x *explained) openWider() []Advice {
	all := Advice{"sudo torbpf exclude add " + x.To.String(), "lets all but DNS to this destination go direct"}
	return append([]Advice{all}, x.openSource()...)
}

// openName is the rule for the name that is asked for, where there can be one.
func (x *explained) openName() []Advice {
	name, err := config.ParseDomain(x.Name)
	if err != nil || x.reason != abi.ReasonDNSUDP {
		return nil
	}
	command, effect := "sudo torbpf exclude add --domain "+name, "lets a device reach the addresses that it is told for this name, which is then asked for in clear"
	if !x.state.Config.Resolver.IsValid() {
		command, effect = command+" --resolver ADDRESS", effect+", of a resolver of your choice, such as your provider's"
	}
	return []Advice{{command, effect}}
}

// keptDevice tells whether a rule keeps this very device with Tor, before any for sources.
func (x *explained) keptDevice() bool {
	r := x.rules.rule
	return r != nil && r.Kind == config.KindDevice && r.Policy == config.PolicyTor
}

func (x *explained) openSource() []Advice {
	if x.From.IsLinkLocalUnicast() || x.keptDevice() { // no rule for sources is about these
		return nil
	}
	return []Advice{{"sudo torbpf exclude add --source " + x.From.String(), "lets all of this device go direct, its DNS included"}}
}

// changeLocal is the mode in which private destinations are judged otherwise.
func (x *explained) changeLocal() []Advice {
	attach := "sudo torbpf attach " + strings.Join(x.plan.LANNames(), " ") + " --local "
	switch {
	case x.reason == abi.ReasonLocalSubnet:
		return []Advice{{attach + string(config.LocalNone), "refuses local subnets as well"}}
	case x.reason == abi.ReasonReservedOpen || x.plan.LocalMode == config.LocalNone:
		return []Advice{{attach + string(config.LocalConnected), "lets local subnets alone be reached"}}
	default:
		return []Advice{{attach + string(config.LocalReserved), "lets all private destinations go direct"}}
	}
}
