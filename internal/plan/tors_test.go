package plan

import (
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestEachTorHasPortsAndRangesOfItsOwn, which it keeps while their number changes.
func TestEachTorHasPortsAndRangesOfItsOwn(t *testing.T) {
	h := homeRouter(t).Host
	cfg := wish("eth1")
	made := make(map[int]*Plan)
	for _, n := range []int{1, 2, 16} {
		cfg.Tor.Instances = config.Instances(n)
		p, err := Make(cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Tors()) != n {
			t.Fatalf("%d tors were asked for, and %d planned", n, len(p.Tors()))
		}
		made[n] = p
	}
	if one := made[1].Tors()[0]; one != (Tor{9040, 9053, made[1].Onion4, made[1].Onion6}) {
		t.Errorf("one tor has %+v", one)
	}
	ports := make(map[uint16]bool)
	for i, tor := range made[16].Tors() {
		if i < 2 && tor != made[2].Tors()[i] {
			t.Errorf("of 16 tor %d has %+v, of 2 %+v", i, tor, made[2].Tors()[i])
		}
		for _, port := range []uint16{tor.Trans, tor.DNS} {
			if ports[port] || port == made[16].Ports.Resolver || !made[16].IsPort(port) {
				t.Errorf("port %d of tor %d is another's", port, i)
			}
			ports[port] = true
		}
	}
	if text := made[2].String(); !strings.Contains(text, "tor 1: trans 9140, dns 9153, onion 10.196.0.0/14, fd74:6f72:f10::/44") {
		t.Errorf("the plan of two tors is\n%s", text)
	}
	cfg.Tor.Instances, h.CPUs = config.AutoInstances, 6
	if p, err := Make(cfg, h); err != nil || len(p.Tors()) != 3 {
		t.Errorf("of 6 CPUs: %v, %v", p, err)
	}
}

// TestSeveralTorsNeedARangeWithRoom for all: one that is too narrow is not chosen.
func TestSeveralTorsNeedARangeWithRoom(t *testing.T) {
	b := homeRouter(t).route("10.0.0.0/8", "eth1").route("172.16.0.0/12", "eth1")
	cfg := wish("eth1")
	for n, want := range map[int]string{1: "198.18.0.0/15", 2: "100.64.0.0/10"} {
		cfg.Tor.Instances = config.Instances(n)
		p, err := Make(cfg, b.Host)
		if err != nil || p.Onion4.String() != want {
			t.Errorf("%d tors get %v (%v), want %s", n, p.Onion4, err, want)
		}
	}
}

// TestTheInstanceIsInTheMark beside the class, wherever our bits are.
func TestTheInstanceIsInTheMark(t *testing.T) {
	for _, shift := range []uint8{0, 4, 24} {
		m := Mark{Shift: shift}
		if m.ClassMask()|m.InstanceMask() != m.Mask() || m.ClassMask()&m.InstanceMask() != 0 {
			t.Errorf("the parts %#x and %#x are not all of %#x", m.ClassMask(), m.InstanceMask(), m.Mask())
		}
		for i := range config.MaxInstances {
			mark := m.Instance(i) | m.Class(9)
			if got := m.InstanceOf(mark | ^m.Mask()); got != i {
				t.Errorf("instance %d is read as %d of %#x", i, got, mark)
			}
		}
	}
}
