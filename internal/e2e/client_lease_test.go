package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// leaseMessage is what a DHCP client sends, by a packet socket as long as it has no address,
// and by one of UDP for the rest of the lease's time.
type leaseMessage struct {
	name   string
	packet bool // by AF_PACKET
	from   netip.AddrPort
	to     netip.AddrPort
	passes bool
}

var (
	modem4     = netip.MustParseAddr("192.168.9.1") // a server in a private subnet of the WAN
	behind4    = netip.MustParseAddr("192.168.9.2")
	modem6     = netip.MustParseAddr("fe80::53")
	nobody4    = netip.IPv4Unspecified()
	everybody4 = netip.MustParseAddr("255.255.255.255")
	servers6   = netip.MustParseAddr("ff02::1:2") // RFC 8415, 7.1
)

// leaseMessages: a server beyond the own subnets is asked like all of them, when the time
// for renewing is over (RFC 2131, 4.4.5).
func leaseMessages(own6 netip.Addr) []leaseMessage {
	const client4, server4, client6, server6 = 68, 67, 546, 547
	return []leaseMessage{
		{"DISCOVER", true, at(nobody4, client4), at(everybody4, server4), true},
		{"REQUEST, renewing", false, at(behind4, client4), at(modem4, server4), true},
		{"REQUEST, rebinding", false, at(testnet.WANRouter4, client4), at(everybody4, server4), true},
		{"REQUEST, rebinding by a packet socket", true, at(testnet.WANRouter4, client4), at(everybody4, server4), true},
		{"Solicit", false, at(own6, client6), at(servers6, server6), true},
		{"Solicit by a packet socket", true, at(own6, client6), at(servers6, server6), true},
		{"Renew", false, at(own6, client6), at(modem6, server6), true},
		{"REQUEST to a public server", false, at(testnet.WANRouter4, client4), at(testnet.WANISP4, server4), false},
		{"REQUEST to a public server by a packet socket", true, at(testnet.WANRouter4, client4), at(testnet.WANISP4, server4), false},
		{"Renew of a global server", false, at(testnet.WANRouter6, client6), at(testnet.WANISP6, server6), false},
		{"Renew of a global server by a packet socket", true, at(testnet.WANRouter6, client6), at(testnet.WANISP6, server6), false},
		{"from another port", true, at(nobody4, client4+1), at(everybody4, server4), false},
	}
}

// send has the router send it, with its name for what a server would read.
func (m leaseMessage) send(lab *testnet.Lab) error {
	if m.packet {
		frame := testnet.Frame(lab.Router.GatewayMAC, lab.Router.MAC, unix.ETH_P_IP, testnet.UDPDatagram(m.from, m.to, []byte(m.name)))
		if m.to.Addr().Is6() {
			frame = testnet.Frame(lab.Router.GatewayMAC, lab.Router.MAC, unix.ETH_P_IPV6, testnet.UDPDatagram(m.from, m.to, []byte(m.name)))
		}
		return lab.Router.SendFrame(wan, frame)
	}
	return lab.Router.Do(func() error {
		link, err := net.InterfaceByName(wan)
		if err != nil {
			return err
		}
		sockaddr := func(a netip.AddrPort) unix.Sockaddr {
			if a.Addr().Is4() {
				return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
			}
			return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port()), ZoneId: uint32(link.Index)}
		}
		family := unix.AF_INET
		if m.to.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(fd, wan), unix.Bind(fd, sockaddr(m.from)))
		if err != nil {
			return fmt.Errorf("ready socket: %w", err)
		}
		return unix.Sendto(fd, []byte(m.name), 0, sockaddr(m.to))
	})
}

// TestLeasesAreRenewed: what a DHCP client sends gets to the link by whichever socket,
// through all layers and with nftables flushed, and nothing that only looks like it. Where
// the link's subnets are nobody's exclusion, all servers are asked instead.
func TestLeasesAreRenewed(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	run(t, lab.ISP, "ip", "addr", "add", modem4.String()+"/24", "dev", "wan0")
	run(t, lab.ISP, "ip", "addr", "add", modem6.String()+"/64", "dev", "wan0", "nodad")
	run(t, lab.Router, "ip", "addr", "add", behind4.String()+"/24", "dev", wan)
	run(t, lab.Router, "ip", "addr", "add", "fe80::99/64", "dev", wan, "nodad")
	messages := leaseMessages(netip.MustParseAddr("fe80::99"))
	// The guard at the uplink tells private addresses from public ones, and not whose they are.
	elsewhere := leaseMessage{"REQUEST to a private server elsewhere", false, at(testnet.WANRouter4, 68), at(netip.MustParseAddr("10.1.2.3"), 67), false}
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab), "--local", "none")
	t.Run("no subnet is local", func(t *testing.T) {
		var strict []leaseMessage
		for _, m := range append(slices.Clone(messages), elsewhere) {
			m.passes = m.passes && m.to.Addr() != modem4
			strict = append(strict, m)
		}
		checkLeases(t, lab, strict, unix.EPERM)
	})
	mustTorbpf(t, lab, "attach", "--client", "--no-wait", "--local", "connected")
	t.Run("all layers", func(t *testing.T) { checkLeases(t, lab, append(slices.Clone(messages), elsewhere), unix.EPERM) })
	run(t, lab.Router, "nft", "flush", "ruleset")
	t.Run("without nftables", func(t *testing.T) { checkLeases(t, lab, messages, nil) })
}

// checkLeases wants those calls to end with an error that are refused, if anybody can say so.
func checkLeases(t *testing.T, lab *testnet.Lab, messages []leaseMessage, refusal error) {
	t.Helper()
	capture := captureWAN(t, lab)
	for _, m := range messages {
		err := m.send(lab)
		if m.passes && err != nil || !m.passes && !m.packet && refusal != nil && !errors.Is(err, refusal) {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	seen := func() map[string]bool {
		names := map[string]bool{}
		for _, p := range capture.Packets() {
			if p.Inbound && p.Proto == "udp" {
				names[string(p.Payload)] = true
			}
		}
		return names
	}
	for _, m := range messages {
		if m.passes {
			eventually(t, patience, m.name, func() error {
				if !seen()[m.name] {
					return errors.New("it is not on the WAN")
				}
				return nil
			})
		}
	}
	for _, m := range messages {
		if !m.passes && seen()[m.name] {
			t.Errorf("%s is on the WAN", m.name)
		}
	}
}
