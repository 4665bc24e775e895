package plan

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestWhatIsNotFitIsWaitedFor by its name, and what a pattern stands for as well; an
// uplink never is a LAN by a pattern.
func TestWhatIsNotFitIsWaitedFor(t *testing.T) {
	h := homeRouter(t).Host
	h.Links = append(h.Links, Link{Index: 90, Name: "eth9", Ethernet: true})
	c := wish("eth7", "eth*")
	c.Wait, c.Uplinks = true, []string{"eth0"}
	p, err := Make(c, h)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.LANNames(), []string{"eth1"}) || !slices.Equal(p.Waiting, []string{"eth7", "eth9"}) || !slices.Equal(p.Patterns, []string{"eth*"}) {
		t.Errorf("LANs %v, waiting for %v, patterns %v", p.LANNames(), p.Waiting, p.Patterns)
	}
	if len(p.Unfit) != len(p.Waiting) {
		t.Errorf("reasons %q for %v", p.Unfit, p.Waiting)
	}
	c.Uplinks = nil
	if _, err := Make(c, h); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("a pattern without a named uplink: %v", err)
	}
	c = wish("wlan*")
	c.Uplinks = []string{"eth0"}
	if _, err := Make(c, h); !errors.Is(err, ErrUnknownInterface) {
		t.Errorf("a pattern that nothing matches, without waiting: %v", err)
	}
}

// TestALANStaysOneWhateverItAnnounces: a default route by an attached interface comes
// from a device behind it (RA), and makes it no uplink.
func TestALANStaysOneWhateverItAnnounces(t *testing.T) {
	h := homeRouter(t).Host
	eth1, _ := h.LinkByName("eth1")
	h.Routes = append(h.Routes, Route{Dst: netip.MustParsePrefix("::/0"), Index: eth1.Index, Table: 254})
	c := wish("eth1")
	c.Wait = true
	if p, err := Make(c, h); err != nil || len(p.LANs) != 0 {
		t.Errorf("one that was no LAN: %v, %v", p, err)
	}
	h.Torified = []int{eth1.Index}
	p, err := Make(c, h)
	if err != nil || !slices.Equal(p.LANNames(), []string{"eth1"}) || slices.ContainsFunc(p.Uplinks, func(u Uplink) bool { return u.Name == "eth1" }) {
		t.Errorf("one that is a LAN: %v, %v", p, err)
	}
}
