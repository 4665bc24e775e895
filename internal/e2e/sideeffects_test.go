package e2e

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// TestAOneArmedRouterSendsNoRedirects: where LAN and internet are on one interface,
// the kernel tells devices to go to the other router themselves. attach refuses
// such an interface, and with --force nothing of theirs gets as far as that.
func TestAOneArmedRouterSendsNoRedirects(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	gateway := lab.Client2 // by IPv6 at its link-local address, or the kernel tells of none
	run(t, lab.Router, "ip", "route", "replace", "default", "via", gateway.IPv4.String(), "dev", lan)
	run(t, lab.Router, "ip", "-6", "route", "replace", "default", "via", "fe80::ff:fe00:5012", "dev", lan)
	device, err := lab.Capture(t.Context(), lab.Client1, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := lab.Capture(t.Context(), gateway, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	send := func() {
		// A broadcast reaches the gateway without the router.
		probes := slices.DeleteFunc(leaktest.Probes(lab.Client1, 0), func(p leaktest.Probe) bool { return p.Group == leaktest.GroupFrames })
		if err := leaktest.Send(lab.Client1, probes, new(leaktest.Tally), func() {}); err != nil {
			t.Fatal(err)
		}
	}
	for _, proto := range []string{"icmp", "icmpv6"} {
		eventually(t, patience, "a redirect by "+proto+" before attach", func() error {
			send() // the kernel limits its errors
			if !slices.ContainsFunc(device.Packets(), func(p testnet.Packet) bool { return p.Proto == proto && isRedirect(p) }) {
				return fmt.Errorf("none so far")
			}
			return nil
		})
	}
	line := []string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}
	r := runTorbpf(t, lab, attachArgs(lab, line...)...)
	badInput{args: line, code: 1, says: []string{"eth1 has the default route", "--force"}}.refused(t, r)

	attach(t, lab, append(line, "--force")...)
	device.Reset()
	other.Reset()
	send()
	run(t, lab.Client1, "ping", "-c", "1", "-W", "2", testnet.LANRouter4.String()) // all before it has been dealt with
	for _, p := range device.Packets() {
		if p.Inbound && isRedirect(p) {
			t.Errorf("the device was told: %v", p)
		}
	}
	for _, p := range other.Packets() {
		if p.Inbound && slices.Contains([]netip.Addr{testnet.Web4, testnet.Web6, testnet.Other4, testnet.Other6}, p.Dst.Addr()) {
			t.Errorf("forwarded: %v", p)
		}
	}
}

// isRedirect leaves out that a link-local address is on the link (RFC 4861, 4.5: the
// destination comes after the target).
func isRedirect(p testnet.Packet) bool {
	if p.Proto == "icmp" {
		return p.ICMPType == 5
	}
	if p.Proto != "icmpv6" || p.ICMPType != 137 || len(p.Payload) < 32 {
		return false
	}
	destination, _ := netip.AddrFromSlice(p.Payload[16:32])
	return !destination.IsLinkLocalUnicast()
}

// TestLogsNameNoDestination: what a device asked for stands in no log, whether it
// worked or not.
func TestLogsNameNoDestination(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	n := lab.Client1
	checkByTor(t, lab, n, testnet.Web4)
	const name = "diary.secret." + testnet.Zone
	for _, proto := range []string{"udp", "tcp"} {
		if err := lookup(n, n.Resolver, name, "A", proto, testnet.Web4.String()); err != nil {
			t.Error(err)
		}
		_, _ = testnet.DNSQuery(n, n.Resolver, "secret.invalid", "TXT", proto, patience) // however it ends
	}
	_ = testnet.Echo(n, "tcp", at(testnet.Other4, 4711), patience) // nobody listens there
	_ = testnet.Echo(n, "tcp", at(netip.MustParseAddr("51.99.0.1"), 80), hush)
	kill(t, 9, pidsNamed(t, lab, "tor")...) // the sentry has something to say of that
	eventually(t, patience, "refusal", func() error { return refusedWithoutTor(n) })
	_, _ = testnet.DNSQuery(n, n.Resolver, name, "A", "tcp", hush)

	logs := 0
	err := filepath.WalkDir(stateDir(t, lab), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".log") {
			return err
		}
		logs++
		text, err := os.ReadFile(path)
		for _, told := range []string{"secret", testnet.Web4.String(), testnet.Other4.String(), "51.99.0.1", n.IPv4.String()} {
			if strings.Contains(string(text), told) {
				t.Errorf("%s tells of %s:\n%s", path, told, text)
			}
		}
		return err
	})
	if err != nil || logs < 2 {
		t.Errorf("%d logs, want tor's and the sentry's: %v", logs, err)
	}
}
