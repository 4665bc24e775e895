package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestDummyInterfaces: an address that only a dummy interface has is the router's own; one that has a default
// route is an uplink like any, though it leads nowhere; and one may be a LAN, though nobody is there.
func TestDummyInterfaces(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	if _, err := lab.Router.Run(t.Context(), "ip", "link", "add", "dummy8", "type", "dummy"); err != nil {
		t.Skip("this kernel was built without dummy interfaces (CONFIG_DUMMY)")
	}
	own := netip.MustParseAddr("10.77.0.1")
	run(t, lab.Router, "bash", "-ec", fmt.Sprintf(`ip addr add %v/24 dev dummy8; ip link set dummy8 up
		ip link add dummy9 type dummy; ip link set dummy9 addrgenmode none; ip link set dummy9 up
		ip route add default dev dummy9 table 100; ip route add %v dev dummy9`, own, testnet.Web4))
	if err := lab.NewServices(lab.Router).ServeUDPEcho(at(own, testnet.PortEcho)); err != nil {
		t.Fatal(err)
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	if names := guardedUplinks(t, lab); !slices.Contains(names, "dummy9") || slices.Contains(names, "dummy8") {
		t.Errorf("uplinks with a guard are %v", names)
	}
	if err := testnet.Echo(lab.Client1, "udp", at(own, testnet.PortEcho), patience); err != nil {
		t.Errorf("the router's own address: %v", err)
	}
	checkNoEcho(t, lab.Client1, testnet.Web4)
	web := testnet.Web4.String()
	mustTorbpf(t, lab, "exclude", "add", web)
	before := sentBy(t, lab, "dummy9")
	eventually(t, patience, "what is excluded to leave by dummy9", func() error {
		_ = testnet.Echo(lab.Client1, "udp", at(testnet.Web4, testnet.PortEcho), hush) // which nobody answers
		if sentBy(t, lab, "dummy9") == before {
			return errors.New("it has sent nothing")
		}
		return nil
	})
	mustTorbpf(t, lab, "exclude", "del", web)
	before = sentBy(t, lab, "dummy9")
	checkNoEcho(t, lab.Client1, testnet.Web4)
	checkLastGuardOf(t, lab, testnet.Web4)
	if now := sentBy(t, lab, "dummy9"); now != before {
		t.Errorf("of what is not excluded %d packets have left by dummy9", now-before)
	}
	attach(t, lab, lan, "dummy8", "--no-wait", "--torrc", loneTorrc(t, lab))
	if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "dummy8") {
		t.Errorf("status: %v", r)
	}
}

// sentBy is how many packets an interface of the router has sent.
func sentBy(t *testing.T, lab *testnet.Lab, name string) uint64 {
	t.Helper()
	link, err := lab.Router.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.TxPackets
}
