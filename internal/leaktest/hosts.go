package leaktest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func hostFaults() []Fault {
	var out []Fault
	for _, validMark := range []int{0, 1} {
		for filter := range 3 {
			name := fmt.Sprintf("src_valid_mark=%d, rp_filter=%d", validMark, filter)
			out = append(out, Fault{Name: name, Inflict: func(b *Bench) error {
				return b.sysctl(
					fmt.Sprintf("net.ipv4.conf.all.src_valid_mark=%d", validMark),
					fmt.Sprintf("net.ipv4.conf.all.rp_filter=%d", filter))
			}})
		}
	}
	return append(out,
		Fault{Name: "forwarding switched on where it was off", Once: true, Prepare: func(b *Bench) error {
			return b.sysctl("net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
		}, Inflict: func(b *Bench) error {
			// IPv6 forgets addresses and routes of none of the kinds that the lab has.
			return b.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		}},
		Fault{Name: "Docker's bridge, rules and bridge-nf-call=1", Once: true, Inflict: dockerComes, Lacks: lacksBridgeNF},
		Fault{Name: "bridge-nf-call=1 below a LAN that is a bridge", Once: true, Prepare: bridgeLAN, Inflict: bridgeCalls, Lacks: lacksBridgeNF},
		Fault{Name: "bridge-nf-call=1 below a bridged LAN + nft gone", Once: true, Prepare: bridgeLAN,
			Inflict: steps(bridgeCalls, flushRuleset), Lacks: lacksBridgeNF},
		Fault{Name: "bridge-nf-call=1 below a bridged LAN + tc gone", Once: true, Prepare: bridgeLAN,
			Inflict: steps(bridgeCalls, lanPinsGone.Inflict), Lacks: lacksBridgeNF},
		Fault{Name: "LAN becomes a port of a bridge", Once: true, Inflict: enslave},
	)
}

// sysctl sets values until the row is over.
func (b *Bench) sysctl(settings ...string) error {
	for _, setting := range settings {
		name, _, _ := strings.Cut(setting, "=")
		var was []byte
		err := b.Lab.Router.Do(func() (err error) {
			was, err = os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
			return err
		})
		if err != nil {
			return err
		}
		b.later(func() error { return b.Lab.Router.Sysctl(name + "=" + strings.TrimSpace(string(was))) })
		if err := b.Lab.Router.Sysctl(setting); err != nil {
			return err
		}
	}
	return nil
}

func lacksBridgeNF(*Bench) string {
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); errors.Is(err, fs.ErrNotExist) {
		return "br_netfilter is not loaded"
	}
	return ""
}

var (
	bridgeNFOn  = []string{"sysctl -q net.bridge.bridge-nf-call-iptables=1", "sysctl -q net.bridge.bridge-nf-call-ip6tables=1"}
	bridgeNFOff = []string{"sysctl -q net.bridge.bridge-nf-call-iptables=0", "sysctl -q net.bridge.bridge-nf-call-ip6tables=0"}
)

// bridgeCalls is what starting Docker does to all bridges of the host.
func bridgeCalls(b *Bench) error {
	b.undoRun(bridgeNFOff...)
	return b.run(bridgeNFOn...)
}

// dockerComes is the rest of it: a bridge of its own, masquerading, and a forward
// chain that drops what is not its.
func dockerComes(b *Bench) error {
	b.laterRun(append([]string{"nft delete table ip docker", "ip link del docker0", "ip link del veth-c"}, bridgeNFOff...)...)
	err := b.run(append([]string{
		"ip link add docker0 type bridge", "ip addr add 172.17.0.1/16 dev docker0",
		"ip link add veth-c type veth peer name veth-p", "ip link set veth-p master docker0",
		"ip link set docker0 up", "ip link set veth-p up", "ip link set veth-c up",
	}, bridgeNFOn...)...)
	if err != nil {
		return err
	}
	return b.feed(`table ip docker {
		chain forward { type filter hook forward priority filter; policy drop; ct state related,established accept; iifname "docker0" accept; }
		chain postrouting { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
	}`)
}

// bridgeLAN puts the LAN on a bridge, which has eth1's hardware address.
func bridgeLAN(b *Bench) error {
	b.lan = "br-lan"
	b.later(func() error {
		if err := b.run("ip link del br-lan", "ip addr add 192.168.50.1/24 dev eth1"); err != nil {
			return err
		}
		return b.addresses6(lan)
	})
	err := b.run("ip link add br-lan type bridge", "ip addr flush dev eth1 scope global", "ip link set eth1 master br-lan",
		"ip link set br-lan up", "ip addr add 192.168.50.1/24 dev br-lan")
	if err != nil {
		return err
	}
	return b.addresses6("br-lan")
}

// enslave makes the attached LAN a port of a bridge that has its addresses: what
// arrives there is no more the LAN's, by name and by number.
func enslave(b *Bench) error {
	b.undo(func() error {
		if err := b.run("ip link del br-lan", "ip addr add 192.168.50.1/24 dev eth1"); err != nil {
			return err
		}
		return b.addresses6(lan)
	})
	err := b.run("ip link add br-lan type bridge", "ip link set br-lan up", "ip link set eth1 master br-lan", "ip addr flush dev eth1 scope global",
		"ip addr add 192.168.50.1/24 dev br-lan")
	if err != nil {
		return err
	}
	return b.addresses6("br-lan")
}
