package testnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Ports of every relay and authority.
const (
	portOR  = 9001
	portDir = 9030 // authorities only
)

// relayRole says what a tor of the network does.
type relayRole int

const (
	roleAuthority relayRole = iota
	roleMiddle
	roleExit
)

// relaySpec is one relay of the network. Each has a /16 (IPv6: /32) of its own.
type relaySpec struct {
	name string
	role relayRole
	ip4  netip.Addr
	ip6  netip.Addr // exits only: the source address of their IPv6 connections
}

var relaySpecs = []relaySpec{
	{"auth1", roleAuthority, netip.MustParseAddr("45.1.0.1"), netip.Addr{}},
	{"auth2", roleAuthority, netip.MustParseAddr("45.2.0.1"), netip.Addr{}},
	{"auth3", roleAuthority, netip.MustParseAddr("45.3.0.1"), netip.Addr{}},
	{"relay1", roleMiddle, netip.MustParseAddr("45.11.0.1"), netip.Addr{}},
	{"relay2", roleMiddle, netip.MustParseAddr("45.12.0.1"), netip.Addr{}},
	{"relay3", roleMiddle, netip.MustParseAddr("45.13.0.1"), netip.Addr{}},
	{"relay4", roleMiddle, netip.MustParseAddr("45.14.0.1"), netip.Addr{}},
	{"exit1", roleExit, netip.MustParseAddr("45.21.0.1"), netip.MustParseAddr("2a0f:21::1")},
	{"exit2", roleExit, netip.MustParseAddr("45.22.0.1"), netip.MustParseAddr("2a0f:22::1")},
}

// onionAddr is the source address of the tor that serves the onion service.
var onionAddr = netip.MustParseAddr("45.31.0.1")

func torAddrs() []netip.Addr {
	addrs := []netip.Addr{onionAddr, bridgeSpec.ip4}
	for _, spec := range relaySpecs {
		addrs = append(addrs, spec.ip4)
		if spec.ip6.IsValid() {
			addrs = append(addrs, spec.ip6)
		}
	}
	return addrs
}

// TorNet is the lab's private Tor network.
type TorNet struct {
	// Onion is the name of a v3 onion service that leads to the web server's port
	// 80, such as "abc...xyz.onion". The web server sees OnionSource.
	Onion       string
	OnionSource netip.Addr

	relays []*relay
	onion  *torProcess
	bridge string                  // the line of StartBridge; "" before
	ports  map[netip.AddrPort]bool // where clients talk to relays
}

// relay is a running relay or authority.
type relay struct {
	relaySpec
	keys *relayKeys
	tor  *torProcess
}

// Relays returns the addresses of all relays and authorities.
func (t *TorNet) Relays() []netip.Addr {
	var addrs []netip.Addr
	for _, r := range t.relays {
		addrs = append(addrs, r.ip4)
	}
	return addrs
}

// IsExit says whether addr is where an exit's connections come from.
func (t *TorNet) IsExit(addr netip.Addr) bool {
	for _, r := range t.relays {
		if r.role == roleExit && (addr == r.ip4 || addr == r.ip6) {
			return true
		}
	}
	return false
}

// startTor brings the network up. The order and the waits between the steps are
// what makes it quick: whoever asks too early falls back to tor's download
// schedules, which wait for minutes.
func (l *Lab) startTor(ctx context.Context) error {
	l.Tor = &TorNet{OnionSource: onionAddr, ports: map[netip.AddrPort]bool{}}
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"tor keys made", func(context.Context) error { return l.Tor.makeRelays() }},
		{"tor configured", func(context.Context) error { return l.writeTorFiles() }},
		{"authorities listen", l.startAuthorities},
		{"relays listen", l.startRelays},
		{"authorities know the relays", l.awaitDescriptors},
		{"authorities agree", l.vote},
		{"relays know one another", l.awaitDirectory},
		{"onion service published", l.startOnion},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w%s", step.name, err, l.Tor.logTails())
		}
		l.logf("%s", step.name)
	}
	return nil
}

// makeRelays generates all keys, a processor's worth at a time.
func (t *TorNet) makeRelays() error {
	for _, spec := range relaySpecs {
		t.relays = append(t.relays, &relay{relaySpec: spec})
		t.ports[netip.AddrPortFrom(spec.ip4, portOR)] = true
		if spec.role == roleAuthority {
			t.ports[netip.AddrPortFrom(spec.ip4, portDir)] = true
		}
	}
	return eachRelay(t.relays, func(r *relay) (err error) {
		r.keys, err = newRelayKeys(r.role == roleAuthority)
		return err
	})
}

func (l *Lab) startRelays(ctx context.Context) error {
	var relays []*relay
	for _, r := range l.Tor.relays {
		if r.role != roleAuthority {
			relays = append(relays, r)
		}
	}
	return l.startAndListen(ctx, relays)
}

func (l *Lab) startAndListen(ctx context.Context, relays []*relay) error {
	for _, r := range relays {
		var err error
		if r.tor, err = l.startTorProcess(r.name); err != nil {
			return err
		}
	}
	for _, r := range relays {
		addr := netip.AddrPortFrom(r.ip4, portOR).String()
		err := waitFor(ctx, r.name+" to listen", func() (bool, error) {
			conn, err := l.Internet.Dial(ctx, "tcp", addr)
			if err != nil {
				return false, r.tor.exited()
			}
			return true, conn.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitDirectory waits until every relay can serve the consensus and every
// microdescriptor: clients take them from any relay and wait long after a miss.
// SIGHUP makes a relay try again at once what it failed to fetch before.
func (l *Lab) awaitDirectory(ctx context.Context) error {
	for _, r := range l.Tor.relays {
		if err := r.tor.hangup(); err != nil {
			return err
		}
	}
	for _, r := range l.Tor.relays {
		asked := time.Now()
		err := waitFor(ctx, r.name+" to have all descriptors", func() (bool, error) {
			if r.knowsAll(len(l.Tor.relays)) {
				return true, nil
			}
			if time.Since(asked) > 5*time.Second {
				asked = time.Now()
				return false, r.tor.hangup()
			}
			return false, r.tor.exited()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// startOnion starts the onion service and waits until its descriptors are
// published.
func (l *Lab) startOnion(ctx context.Context) error {
	var err error
	if l.Tor.onion, err = l.startTorProcess("onion"); err != nil {
		return err
	}
	dir := l.Tor.onion.dir
	err = waitFor(ctx, "onion name", func() (bool, error) {
		name, _ := os.ReadFile(filepath.Join(dir, "service", "hostname"))
		l.Tor.Onion = strings.TrimSpace(string(name))
		return l.Tor.Onion != "" && fileExists(filepath.Join(dir, "control")), l.Tor.onion.exited()
	})
	if err != nil {
		return err
	}
	return awaitUpload(ctx, filepath.Join(dir, "control"))
}

// ClientTorrc returns the lines that make a tor in the router's namespace use this
// network: nothing about ports, directories or users. It is empty without Tor.
func (l *Lab) ClientTorrc() string {
	if l.Tor == nil {
		return ""
	}
	var b strings.Builder
	for _, r := range l.Tor.relays {
		if r.role == roleAuthority {
			fmt.Fprintf(&b, "DirAuthority %s orport=%d v3ident=%s %s %s\n", r.name, portOR, r.keys.v3Ident,
				net.JoinHostPort(r.ip4.String(), fmt.Sprint(portDir)), r.keys.fingerprint)
		}
	}
	return b.String()
}

// ClientTorrcFile is the path of a file with ClientTorrc's lines, readable by all;
// there is none without Tor.
func (l *Lab) ClientTorrcFile() string { return filepath.Join(l.dir, "client.torrc") }
