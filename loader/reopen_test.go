package loader

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
)

// What no interface of the plan has use for is not loaded; a repair that meets the first
// one that has must load it.
func TestProgramsAreLoadedWhenAnInterfaceNeedsThem(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	p := l.plan()
	apply(t, d, p)
	loaded := func(name string) bool {
		_, err := os.Stat(d.programPin(name))
		return err == nil
	}
	special := []string{programLANL3, programOutL3, programUplinkL3, programEarly}
	for _, name := range special {
		if loaded(name) {
			t.Errorf("%s is loaded for nothing", name)
		}
	}

	tun, index := newTun(t)
	addTunnel(p, index)
	g, err := d.Reopen(p)
	if !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = g.Close()
		}
		t.Fatalf("a repair with a tunnel that nothing was loaded for: %v", err)
	}
	apply(t, d, p)
	sendUDP := refusedUDP.bytes(netip.MustParseAddr("192.168.99.11"))
	write(t, tun, sendUDP)
	await(t, "packet to be counted", func() bool {
		return packets(t, d, index, abi.VerdictRefused, abi.ReasonUDP) == 1
	})
	g, err = d.Reopen(p)
	must(t, err)
	must(t, errors.Join(g.AttachLANs(), g.Close()))
	write(t, tun, sendUDP)
	await(t, "packet to be counted after a repair", func() bool {
		return packets(t, d, index, abi.VerdictRefused, abi.ReasonUDP) == 2
	})
}
