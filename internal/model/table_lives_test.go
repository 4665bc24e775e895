package model

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// then is what was beneath a rule.
func then(policy abi.Policy) *abi.Policy { return &policy }

// lifeOver says of the home that a life has ended over a standing rule for the laptop, by
// its address.
func lifeOver(life, standing abi.Policy) func(*Policy) {
	return func(p *Policy) {
		p.Sources = append(p.Sources, PrefixPolicy{Prefix: netip.MustParsePrefix(laptop4 + "/32"), Policy: life, Ended: true, Then: then(standing)})
	}
}

// deviceOver is lifeOver by its hardware address.
func deviceOver(life, standing abi.Policy, ended bool) func(*Policy) {
	return func(p *Policy) {
		p.Devices = map[config.MAC]DevicePolicy{hostMAC: {Policy: life, Ended: ended, Then: then(standing)}}
	}
}

// lifeRows: when a life has ended over a standing rule, that holds for its key, and no
// wider one.
func lifeRows() []row {
	at := func(name string, packet []byte, reason abi.Reason, home func(*Policy)) row {
		return ruleRow("a life over: "+name, packet, reason, home)
	}
	game := udp(40000, 27015)
	wider := sources(abi.PolicyDirect, "192.168.1.0/24")
	destination := func(prefix string, ended bool) func(*Policy) {
		return func(p *Policy) {
			p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Policy: abi.PolicyDirect, Ended: ended, Then: then(abi.PolicyTor)})
		}
	}
	port := func(of string, ended bool) func(*Policy) {
		s := service(of, abi.PolicyDirect)
		s.Ended, s.Then = ended, then(abi.PolicyTor)
		return services(s)
	}
	return []row{
		at("a block, within an excluded range", ip(laptop4, web4, game), abi.ReasonBlockedSource, with(wider, lifeOver(abi.PolicyDirect, abi.PolicyBlock))),
		at("tor, within an excluded range", ip(laptop4, web4, game), abi.ReasonUDP, with(wider, lifeOver(abi.PolicyDirect, abi.PolicyTor))),
		at("a block, by tor", ip(laptop4, web4, game), abi.ReasonBlockedSource, with(wider, lifeOver(abi.PolicyTor, abi.PolicyBlock))),
		at("a block of a device, within an excluded range", ip(laptop4, web4, game), abi.ReasonBlockedDevice, with(wider, deviceOver(abi.PolicyDirect, abi.PolicyBlock, true))),
		at("tor for a device, within an excluded range", ip(laptop6, web6, game), abi.ReasonUDP, with(sources(abi.PolicyDirect, "fd00:1::/64"), deviceOver(abi.PolicyDirect, abi.PolicyTor, true))),
		at("a block of a device, which still runs", ip(laptop4, web4, game), abi.ReasonDirectDevice, deviceOver(abi.PolicyDirect, abi.PolicyBlock, false)),
		at("a destination that is kept, within an excluded one", ip(laptop4, excluded4, game), abi.ReasonUDP, destination("50.1.0.0/24", true)),
		at("a destination that is kept, in a list", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, with(listed(false, "50.0.0.0/8"), destination("50.0.0.0/24", true))),
		at("a destination that is kept, IPv6", ip(laptop6, excluded6, game), abi.ReasonUDP, destination(excluded6+"/128", true)),
		at("a destination that is kept, which still runs", ip(laptop4, web4, game), abi.ReasonDirectDestination, destination("50.0.0.0/24", false)),
		at("behind three that have ended", ip(laptop4, excluded4, game), abi.ReasonUDP, with(
			destination("50.1.0.0/20", true), endedDestinations("50.1.0.0/24", "50.1.0.0/28", "50.1.0.0/30"))),
		at("a port that is kept, in an excluded destination", ip(laptop4, excluded4, game), abi.ReasonUDP, port("27015/udp@50.0.0.0/8", true)),
		at("a port that is kept, which still runs", ip(laptop4, web4, game), abi.ReasonDirectPort, port("27015/udp@50.0.0.0/8", false)),
		at("a port that will be kept, and a fragment", ip(laptop4, excluded4, udp(40000, 7000), fragment4(0, true)), abi.ReasonFragment, port("27015/udp@0.0.0.0/0", false)),
	}
}
