package e2e

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// tunnel is a WireGuard tunnel from the router's wg0 into the internet, by wg-quick and a
// WireGuard in user space at both ends. What comes out of it is sent by inside4 and inside6.
type tunnel struct {
	lab  *testnet.Lab
	conf string // of the router's end, as wg-quick reads it
}

var (
	vpnEndpoint = netip.MustParseAddrPort("198.51.100.7:51820") // as docs/CLIENT.md has it
	inside4     = netip.MustParseAddr("10.66.0.2")
	inside6     = netip.MustParseAddr("fd66::2")
)

// someNetworks is what a VPN is for that does not take everything.
const someNetworks = "51.20.0.0/16, 2a0e:20::/32"

// vpnRecipes are the blocks of docs/CLIENT.md about VPNs, in their order.
func vpnRecipes(t *testing.T) (byEndpoint, byMark, torInside, config []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/CLIENT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Beside a VPN\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```[a-z]+\n(.*?)\n```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 4 {
		t.Fatalf("docs/CLIENT.md has %d recipes for VPNs", len(blocks))
	}
	lines := func(i int) []string { return strings.Split(blocks[i][1], "\n") }
	return lines(0), lines(1), lines(2), lines(3)
}

// documented runs a command as it is written in the documentation.
func documented(t *testing.T, lab *testnet.Lab, line string) {
	t.Helper()
	args, ok := strings.CutPrefix(line, "sudo torbpf ")
	if !ok {
		t.Fatalf("%q is no command of torbpf", line)
	}
	mustTorbpf(t, lab, strings.Fields(args)...)
}

// openTunnel brings both ends up; own are lines of the router's end, and allowed is what it
// is for.
func openTunnel(t *testing.T, lab *testnet.Lab, allowed string, own ...string) *tunnel {
	t.Helper()
	endpoint := vpnEndpoint.Addr().String() + "/32"
	run(t, lab.Internet, "ip", "addr", "add", endpoint, "dev", "lo")
	t.Cleanup(func() {
		if _, err := lab.Internet.Run(context.Background(), "ip", "addr", "del", endpoint, "dev", "lo"); err != nil {
			t.Error(err)
		}
	})
	nearKey, nearPublic := wgKey(t)
	farKey, farPublic := wgKey(t)
	dir := t.TempDir()
	far := filepath.Join(dir, "wg-far0.conf")
	near := &tunnel{lab, filepath.Join(dir, "wg0.conf")}
	for file, text := range map[string]string{
		far: fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\nAddress = 10.66.0.1/24, fd66::1/64\n[Peer]\nPublicKey = %s\nAllowedIPs = %v/32, %v/128\n",
			farKey, vpnEndpoint.Port(), nearPublic, inside4, inside6),
		near.conf: fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %v/24, %v/64\n%s\n[Peer]\nPublicKey = %s\nEndpoint = %v\nAllowedIPs = %s\n",
			nearKey, inside4, inside6, strings.Join(own, "\n"), farPublic, vpnEndpoint, allowed),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, lab.Internet, "wg-quick", "up", far)
	t.Cleanup(func() {
		if _, err := lab.Internet.Run(context.Background(), "wg-quick", "down", far); err != nil {
			t.Error(err)
		}
	})
	near.up(t)
	t.Cleanup(func() { _, _ = lab.Router.Run(context.Background(), "wg-quick", "down", near.conf) }) // unless it is gone
	return near
}

// wgKey makes a key, as `wg genkey` and `wg pubkey` do.
func wgKey(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	return encode(key.Bytes()), encode(key.PublicKey().Bytes())
}

func (v *tunnel) up(t *testing.T) { t.Helper(); run(t, v.lab.Router, "wg-quick", "up", v.conf) }

// kill ends the router's end, and the interface with it; wg-quick's rules stay.
func (v *tunnel) kill(t *testing.T) {
	t.Helper()
	kill(t, unix.SIGKILL, pidsNamed(t, v.lab, "wireguard-go")...)
	eventually(t, patience, "the end of wg0", func() error {
		if _, err := v.lab.Router.Netlink().LinkByName("wg0"); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}

// port is what the router's end sends from.
func (v *tunnel) port(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(run(t, v.lab.Router, "wg", "show", "wg0", "listen-port"))
}

// strays are what a capture holds of the router's but for Tor's and the tunnel's own packets.
func (v *tunnel) strays(t *testing.T, capture *testnet.Capture, port string) (strays []testnet.Packet, own int) {
	t.Helper()
	for _, p := range capture.NonTor() {
		if p.Proto == "udp" && p.Dst == vpnEndpoint && fmt.Sprint(p.Src.Port()) == port {
			own++
			continue
		}
		strays = append(strays, p)
	}
	return strays, own
}

// insideVPN wants the web server reached by the tunnel, by both protocols and families.
func insideVPN(s *speaker) error {
	var errs []error
	for addr, want := range map[netip.Addr]netip.Addr{testnet.Web4: inside4, testnet.Web6: inside6} {
		saw, err := s.say("get %v", addr)
		if err == nil && saw != want.String() {
			err = fmt.Errorf("%v saw %s", addr, saw)
		}
		_, echoErr := s.say("try udp %v", at(addr, testnet.PortEcho))
		errs = append(errs, err, echoErr)
	}
	return errors.Join(errs...)
}

// TestAVPNForSomeNetworks takes what is routed to it and nothing else, by each recipe of the
// documentation; when it is gone nothing takes the uplink instead.
func TestAVPNForSomeNetworks(t *testing.T) {
	byEndpoint, byMark, _, _ := vpnRecipes(t)
	for _, test := range []struct {
		name      string
		own       []string
		commands  []string
		strangers bool // may send to the endpoint's port as well
	}{
		{"by endpoint", nil, byEndpoint, true},
		{"by mark", []string{"FwMark = 0x100"}, byMark, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := clientLab(t)
			v := openTunnel(t, lab, someNetworks, test.own...)
			s := startSpeaker(t, lab, someone, "")
			before := captureWAN(t, lab)
			if err := both(s.refused); err != nil {
				t.Errorf("before: %v", err)
			}
			checkNoLeaks(t, before)
			for _, line := range test.commands {
				documented(t, lab, line)
			}
			checkBesideVPN(t, v, s, test.strangers)
			checkVPNGone(t, v, s)
		})
	}
}

func checkBesideVPN(t *testing.T, v *tunnel, s *speaker, strangers bool) {
	t.Helper()
	capture := captureWAN(t, v.lab)
	if err := insideVPN(s); err != nil {
		t.Errorf("by the VPN: %v", err)
	}
	for _, addr := range []netip.Addr{testnet.Other4, testnet.Other6} {
		if err := s.refused(addr); err != nil {
			t.Errorf("beside the VPN: %v", err)
		}
	}
	another := netip.AddrPortFrom(vpnEndpoint.Addr(), vpnEndpoint.Port()+1)
	if _, err := s.say("try udp %v", another); err == nil || !strings.Contains(err.Error(), unix.EPERM.Error()) {
		t.Errorf("to another port of the endpoint: %v", err)
	}
	strays, own := v.strays(t, capture, v.port(t))
	if own == 0 || len(strays) > 0 {
		t.Errorf("on the WAN there were %d packets of the tunnel, and %v", own, strays)
	}
	_, err := s.say("try udp %v", vpnEndpoint)
	if refused := err != nil && strings.Contains(err.Error(), unix.EPERM.Error()); refused == strangers {
		t.Errorf("who else sends to the endpoint: %v", err)
	}
}

// checkVPNGone takes the tunnel away in several ways. With `torbpf run` at work it is an
// exclusion again as soon as it is back.
func checkVPNGone(t *testing.T, v *tunnel, s *speaker) {
	t.Helper()
	startRun(t, v.lab, filepath.Join(v.lab.Dir(), "none.toml"))
	for _, gone := range []struct {
		name string
		do   func()
	}{
		{"interface down", func() { run(t, v.lab.Router, "ip", "link", "set", "wg0", "down") }},
		{"wg-quick down", func() { run(t, v.lab.Router, "wg-quick", "down", v.conf) }},
		{"killed", func() { v.kill(t) }},
	} {
		eventually(t, patience, "the VPN, before: "+gone.name, func() error { return insideVPN(s) })
		s.must(t, "open vpn tcp %v", at(testnet.Web4, portFlows))
		s.must(t, "echo vpn")
		port := v.port(t)
		capture := captureWAN(t, v.lab)
		gone.do()
		if _, err := s.say("echo vpn"); err == nil {
			t.Errorf("%s: a connection goes on", gone.name)
		}
		if err := both(s.refused); err != nil {
			t.Errorf("%s: %v", gone.name, err)
		}
		if strays, _ := v.strays(t, capture, port); len(strays) > 0 {
			t.Errorf("%s: on the WAN: %v", gone.name, strays)
		}
		if gone.name == "interface down" {
			run(t, v.lab.Router, "wg-quick", "down", v.conf)
		}
		v.up(t)
	}
}

// TestTheFirewallOfWgQuickIsToldOf, which drops what Tor and the sentry answer.
func TestTheFirewallOfWgQuickIsToldOf(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	v := openTunnel(t, lab, "0.0.0.0/0, ::/0")
	const words = "wg-quick's firewall (table wg-quick-wg0)"
	if r := attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab)); strings.Count(r.stderr, words) != 1 {
		t.Errorf("attach: %v", r)
	}
	run(t, lab.Router, "wg-quick", "down", v.conf)
	if r := runTorbpf(t, lab, "status"); strings.Contains(r.stdout+r.stderr, words) {
		t.Errorf("without the tunnel: %v", r)
	}
}

// TestTorThroughAVPN: of what the machine sends, Tor's included, nothing but the tunnel's
// packets is on the WAN; and when it is gone nothing at all, if its routes stay.
func TestTorThroughAVPN(t *testing.T) {
	_, _, attachIt, config := vpnRecipes(t)
	lab := torLab(t)
	s := startSpeaker(t, lab, someone, "")
	before := takeSnapshot(t, lab)
	v := openTunnel(t, lab, "0.0.0.0/0, ::/0", config...)
	capture := captureWAN(t, lab)
	detachLater(t, lab)
	for _, line := range attachIt {
		documented(t, lab, strings.Replace(line, "attach", strings.Join(attachArgs(lab), " "), 1))
	}
	eventually(t, torPatience, "Tor by the VPN", func() error { return byTor(lab, lab.Router, testnet.Web4) })
	for _, n := range []*testnet.Node{lab.Router, lab.Router.As(someone)} {
		checkByTor(t, lab, n, testnet.Web4)
		checkByTor(t, lab, n, testnet.Web6)
		checkNoEcho(t, n, testnet.Web4, testnet.Web6)
		inParallel(t, lookupsAt(n, "vpn", []netip.Addr{testnet.PublicResolver4, testnet.PublicResolver6}))
	}
	port := v.port(t)
	if checkOnlyTunnel(t, v, capture, port) == 0 {
		t.Error("the tunnel was of no use")
	}
	gone := captureWAN(t, lab)
	v.kill(t)
	if err := both(s.refused); err != nil {
		t.Error(err)
	}
	if own := checkOnlyTunnel(t, v, gone, port); own > 0 {
		t.Errorf("a tunnel that is gone has sent %d packets", own)
	}
	mustTorbpf(t, lab, "detach", "--client")
	for _, line := range config { // as wg-quick would have it done
		if command, ok := strings.CutPrefix(line, "PostDown = "); ok {
			run(t, lab.Router, "sh", "-c", command)
		}
	}
	before.checkSame(t, takeSnapshot(t, lab))
}

// checkOnlyTunnel wants not even Tor's packets beside the tunnel's, of which it returns how
// many there are.
func checkOnlyTunnel(t *testing.T, v *tunnel, capture *testnet.Capture, port string) int {
	t.Helper()
	strays, own := v.strays(t, capture, port)
	if len(strays) > 0 {
		t.Errorf("on the WAN: %v", strays)
	}
	for _, p := range capture.Packets() {
		if p.Inbound && p.Proto == "tcp" {
			t.Errorf("on the WAN: %v", p)
		}
	}
	return own
}
