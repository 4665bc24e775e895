package leaktest

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

var (
	lanRenamed = Fault{Name: "LAN renamed", part: "name", Once: true, Inflict: func(b *Bench) error {
		b.later(func() error { return b.rename("lan0", lan) })
		return b.rename(lan, "lan0")
	}}
	lanReplaced = Fault{Name: "LAN deleted and created anew", Inflict: func(b *Bench) error { return b.Lab.ReplaceLAN() }}
	subnetGone  = Fault{Name: "route of a local subnet vanishes (VPN down)", Once: true, Prepare: vpnUp, Inflict: lines("ip link del vpn0")}
)

func linkFaults() []Fault {
	return []Fault{
		{Name: "LAN down and up", Inflict: func(b *Bench) error {
			if err := b.run("ip link set eth1 down", "ip link set eth1 up"); err != nil {
				return err
			}
			return b.addresses6(lan)
		}},
		lanReplaced, lanRenamed,
		{Name: "LAN renamed and back", Inflict: func(b *Bench) error {
			if err := b.rename(lan, "lan0"); err != nil {
				return err
			}
			return b.rename("lan0", lan)
		}},
		{Name: "LAN address changed within its subnet", Once: true, Inflict: func(b *Bench) error {
			b.laterRun("ip addr del 192.168.50.254/24 dev eth1", "ip addr add 192.168.50.1/24 dev eth1")
			return b.run("ip addr del 192.168.50.1/24 dev eth1", "ip addr add 192.168.50.254/24 dev eth1")
		}},
		{Name: "LAN moved to other subnets", Once: true, Lingers: 4 * time.Second, Inflict: moveLAN},
		{Name: "second address added to the LAN", Once: true, Inflict: func(b *Bench) error {
			b.laterRun("ip addr del 192.168.51.1/24 dev eth1", "ip addr del 2a0d:51::1/64 dev eth1")
			if err := b.probeFrom("192.168.51.200"); err != nil {
				return err
			}
			return b.run("ip addr add 192.168.51.1/24 dev eth1", "ip addr add 2a0d:51::1/64 dev eth1 nodad")
		}},
		subnetGone,
		{Name: "route of a local subnet vanishes, interface stays", Once: true, Prepare: vpnUp, Inflict: lines(
			"ip addr del 10.1.255.1/16 dev vpn0", "ip addr del fd99::ffff/64 dev vpn0")},
	}
}

// rename gives a LAN another name. Its IPv6 addresses go when it is down.
func (b *Bench) rename(from, to string) error {
	err := b.run("ip link set "+from+" down", "ip link set "+from+" name "+to, "ip link set "+to+" up")
	if err != nil {
		return err
	}
	return b.addresses6(to)
}

// addresses6 puts back what the kernel took from a LAN that was down.
func (b *Bench) addresses6(name string) error {
	for _, a := range []netip.Addr{testnet.LANRouterULA, testnet.LANRouter6} {
		if err := b.run(fmt.Sprintf("ip addr add %v/64 dev %s nodad", a, name)); err != nil {
			return err
		}
	}
	return nil
}

// probeFrom gives client1 an address of a new subnet, to probe the repair from.
func (b *Bench) probeFrom(address string) error {
	b.later(func() error { return b.on(b.Lab.Client1, "ip addr del "+address+"/24 dev eth0") })
	b.from = netip.MustParseAddr(address)
	return b.on(b.Lab.Client1, "ip addr add "+address+"/24 dev eth0")
}

// moveLAN leaves the clients with addresses that no LAN has any more.
func moveLAN(b *Bench) error {
	was := []string{"192.168.50.1/24 dev eth1", "fd50::1/64 dev eth1 nodad", "2a0d:50::1/64 dev eth1 nodad"}
	is := []string{"192.168.51.1/24 dev eth1", "fd51::1/64 dev eth1 nodad", "2a0d:51::1/64 dev eth1 nodad"}
	b.later(func() error { return b.readdress(is, was) })
	if err := b.probeFrom("192.168.51.200"); err != nil {
		return err
	}
	return b.readdress(was, is)
}

func (b *Bench) readdress(from, to []string) error {
	for i := range from {
		// nodad is for adding; to delete, it does no harm.
		if err := b.run("ip addr del "+from[i], "ip addr add "+to[i]); err != nil {
			return err
		}
	}
	return nil
}

// vpnUp gives the router a subnet behind another interface, in whose range some of
// the probes go. Its far end answers nothing.
func vpnUp(b *Bench) error {
	err := b.Lab.Link(testnet.Iface{Node: b.Lab.Switch, Name: "vpn1"},
		testnet.Iface{Node: b.Lab.Router, Name: "vpn0", Addrs: []string{"10.1.255.1/16", "fd99::ffff/64"}})
	b.later(func() error {
		if _, err := b.index("vpn0"); err != nil {
			return nil // the fault itself
		}
		return b.run("ip link del vpn0")
	})
	return err
}
