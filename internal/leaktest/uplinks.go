package leaktest

import (
	"fmt"

	"github.com/torbpf/torbpf/testnet"
)

var (
	wanReplaced = Fault{Name: "uplink deleted and created anew", Inflict: func(b *Bench) error {
		if err := b.Lab.ReplaceWAN(); err != nil {
			return err
		}
		return b.watch.replace(b.ctx)
	}}
	secondUplink = Fault{Name: "second uplink appears and takes over", Once: true, Inflict: addUplink}
)

// Default routes as the lab begins with, and as what comes by DHCP and RA.
var (
	defaultRoutes = []string{
		fmt.Sprintf("ip route replace default via %v dev eth0", testnet.WANISP4),
		fmt.Sprintf("ip -6 route replace default via %v dev eth0", testnet.WANISP6),
	}
	noDefaultRoutes = []string{"ip route flush default", "ip -6 route flush default"}
)

func uplinkFaults() []Fault {
	lease := func(b *Bench) error {
		b.laterRun(append([]string{
			"ip addr del 62.10.0.77/24 dev eth0", "ip addr add 62.10.0.2/24 dev eth0",
			"ip addr del 2a0c:10::77/64 dev eth0", "ip addr add 2a0c:10::2/64 dev eth0 nodad",
			"ip route flush default", "ip -6 route flush default",
		}, defaultRoutes...)...)
		return b.run(
			"ip addr del 62.10.0.2/24 dev eth0", "ip addr del 2a0c:10::2/64 dev eth0", "ip -6 route flush default",
			"ip addr add 62.10.0.77/24 dev eth0", "ip route add default via 62.10.0.1 dev eth0 proto dhcp metric 100",
			"ip addr add 2a0c:10::77/64 dev eth0 nodad", "ip -6 route add default via 2a0c:10::1 dev eth0 proto ra metric 1024 expires 1800")
	}
	return []Fault{
		{Name: "uplink down and up", Inflict: func(b *Bench) error {
			return b.run(append([]string{"ip link set eth0 down", "ip link set eth0 up", "ip addr add 2a0c:10::2/64 dev eth0 nodad"}, defaultRoutes...)...)
		}},
		wanReplaced,
		{Name: "uplink renamed", Once: true, Inflict: func(b *Bench) error {
			b.later(func() error { return b.renameWAN("wan9", wan) })
			return b.renameWAN(wan, "wan9")
		}},
		{Name: "uplink gets another lease (DHCP, RA)", Once: true, Inflict: lease},
		{Name: "default routes gone and back", Inflict: func(b *Bench) error {
			return b.run(append(noDefaultRoutes, defaultRoutes...)...)
		}},
		{Name: "uplink comes after attach", Once: true, Forgotten: true, Prepare: lines("ip link set eth0 down"), Inflict: func(b *Bench) error {
			return b.run(append([]string{"ip link set eth0 up", "ip addr add 2a0c:10::2/64 dev eth0 nodad"}, defaultRoutes...)...)
		}},
		secondUplink,
		{Name: "default route by a LAN's neighbour", Once: true, Inflict: func(b *Bench) error {
			b.laterRun(append([]string{"ip route flush default"}, defaultRoutes...)...)
			capture, err := b.Lab.Capture(b.ctx, b.Lab.Client3, "eth0")
			if err != nil {
				return err
			}
			b.watch.captures = append(b.watch.captures, capture)
			return b.run("ip route replace default via 192.168.60.11 dev eth2", "ip route add default via 62.10.0.1 dev eth0 metric 100")
		}},
	}
}

func (b *Bench) renameWAN(from, to string) error {
	return b.run("ip link set "+from+" down", "ip link set "+from+" name "+to, "ip link set "+to+" up",
		fmt.Sprintf("ip addr add %v/64 dev %s nodad", testnet.WANRouter6, to),
		fmt.Sprintf("ip route replace default via %v dev %s", testnet.WANISP4, to),
		fmt.Sprintf("ip -6 route replace default via %v dev %s", testnet.WANISP6, to))
}

// addUplink connects the router to its ISP a second time, with better routes. No
// guard is there until attach is run again.
func addUplink(b *Bench) error {
	b.laterRun(append([]string{"ip link del eth3"}, append(noDefaultRoutes, defaultRoutes...)...)...)
	err := b.Lab.Link(
		testnet.Iface{Node: b.Lab.ISP, Name: "wan1", Addrs: []string{"62.10.1.1/24", "2a0c:10:0:1::1/64"}},
		testnet.Iface{Node: b.Lab.Router, Name: "eth3", Addrs: []string{"62.10.1.2/24", "2a0c:10:0:1::2/64"}})
	if err != nil {
		return err
	}
	capture, err := b.Lab.Capture(b.ctx, b.Lab.ISP, "wan1")
	if err != nil {
		return err
	}
	b.watch.captures = append(b.watch.captures, capture)
	return b.run(
		"ip route replace default via 62.10.1.1 dev eth3 proto dhcp", "ip route add default via 62.10.0.1 dev eth0 metric 100",
		"ip -6 route add default via 2a0c:10:0:1::1 dev eth3 proto ra metric 10")
}
