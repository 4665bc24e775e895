package router

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// sender is whom somebody means: an address, or a device with the addresses that it has.
type sender struct {
	mac   config.MAC // zero where it is not known
	addrs []netip.Addr
	named bool // as a device, whose addresses come and go
}

// sender reads an address, or the name or the hardware address of a device behind a LAN.
func (s *State) sender(who string) (sender, error) {
	neighbours, err := s.neighbours()
	if err != nil {
		return sender{}, err
	}
	if addr, err := netip.ParseAddr(who); err == nil {
		addr = addr.WithZone("").Unmap()
		return sender{mac: neighbours[addr], addrs: []netip.Addr{addr}}, nil
	}
	entry, err := s.Config.WhoIs(who, neighbours)
	if err != nil {
		return sender{}, err
	}
	return sender{mac: entry.MAC, addrs: byMAC(neighbours)[entry.MAC], named: true}, nil
}

// findSender says from which address the packet comes, and from whom.
func (x *explained) findSender() error {
	from, err := x.state.sender(x.Who)
	if err != nil {
		return err
	}
	if from.named && x.MAC != (config.MAC{}) {
		return config.Invalid("%s is a device already: leave --mac out", x.Who)
	}
	if x.MAC == (config.MAC{}) {
		x.MAC = from.mac
	}
	if !from.named {
		x.From = from.addrs[0]
		return nil
	}
	addr, wanted := from.source(x.To, x.Name != "")
	if !addr.IsValid() {
		return config.Invalid("no%s address of %s is known now: give one with --from ADDRESS --mac %s", wanted, x.Who, from.mac)
	}
	x.From = addr
	return nil
}

// source is the address by which a device sends to another, or asks the router for a name; the zero
// one where it has none such as it takes. wanted says which, for a message.
func (s sender) source(to netip.Addr, name bool) (addr netip.Addr, wanted string) {
	wanted, fits := " IPv4", netip.Addr.Is4
	switch {
	case to.Is6() && (to.IsLinkLocalUnicast() || to.IsMulticast()):
		wanted, fits = " IPv6", netip.Addr.Is6
	case to.Is6():
		wanted, fits = " global IPv6", func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }
	case name && !slices.ContainsFunc(s.addrs, netip.Addr.Is4):
		wanted, fits = "", netip.Addr.IsValid // it asks by what it has
	}
	if i := slices.IndexFunc(s.addrs, fits); i >= 0 {
		return s.addrs[i], wanted
	}
	return netip.Addr{}, wanted
}

// addrsAgain is how often the addresses of a device that is watched are looked up at most.
const addrsAgain = time.Second

// watched is a device, or an address, of which packets are told.
type watched struct {
	sender
	who  string
	read time.Time
}

// has says whether an address is that of who is watched. One that nobody knows may be a
// new one of the device's.
func (w *watched) has(addr netip.Addr, load func() (*State, error)) bool {
	if !slices.Contains(w.addrs, addr) && w.named && time.Since(w.read) > addrsAgain {
		w.read = time.Now()
		if s, err := load(); err == nil {
			if now, err := s.sender(w.who); err == nil {
				w.sender = now
			}
		}
	}
	return slices.Contains(w.addrs, addr)
}

// watching says that somebody is watched, and where nothing can come of it.
func (r *Router) watching(s *State, w watched) string {
	text := fmt.Sprintf("watching what %s is refused; Ctrl-C ends it", w.who)
	p, err := r.makePlan(s.clone())
	if err != nil || w.named {
		return text
	}
	for _, prefix := range p.LANPrefixes() {
		if prefix.Contains(w.addrs[0]) {
			return text
		}
	}
	return text + fmt.Sprintf(" (no LAN has %s now, so nothing may come)", w.who)
}
