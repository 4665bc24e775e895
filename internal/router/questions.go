package router

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
)

// moveQuestions has devices ask the tor that they use now, when one has gone or come back.
// To conntrack whoever asks for names from one port for its life has one flow for as long,
// which goes where it went first; and what another tor says of a .onion name is worth nothing.
func (r *Router) moveQuestions(s *State, p *plan.Plan) {
	if s == nil || s.Blocked || p == nil || p.Instances <= 1 {
		return
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return // which is found elsewhere
	}
	open, err := d.GatesOpen(p.Instances)
	if err != nil || slices.Equal(open, r.gates) {
		return
	}
	r.gates = open
	if err := s.moveQuestions(p, open); err != nil {
		r.notify(fmt.Sprintf("warning: a device that always asks for names from one port may ask a tor that is not its own: %v", err))
	}
}

func (s *State) moveQuestions(p *plan.Plan, open []bool) error {
	flows, err := route.Flows()
	if err != nil {
		return err
	}
	whose, err := s.neighbours()
	if err != nil {
		return err
	}
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	flows = slices.DeleteFunc(flows, func(f plan.Flow) bool {
		return f.Protocol != unix.IPPROTO_UDP || !f.DNAT || !own[f.ReplySrc.Addr().Unmap()]
	})
	_, err = route.Delete(misled(p, flows, open, whose))
	return err
}

// onEthernet tells whether a source is of a LAN whose frames have a hardware address.
func onEthernet(p *plan.Plan, src netip.Addr) bool {
	return slices.ContainsFunc(p.LANs, func(l plan.LAN) bool {
		return l.Ethernet && slices.ContainsFunc(l.Prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(src) })
	})
}

// misled are those of the flows that lead to another tor's DNSPort than that of their device.
// Whose they are is known of neighbours; of frames without an Ethernet header it is the address
// that tells.
func misled(p *plan.Plan, flows []plan.Flow, open []bool, whose map[netip.Addr]config.MAC) []plan.Flow {
	tors := p.Tors()
	return slices.DeleteFunc(flows, func(f plan.Flow) bool {
		asks := slices.IndexFunc(tors, func(t plan.Tor) bool { return t.DNS == f.ReplySrc.Port() })
		if asks < 0 {
			return true
		}
		src := f.Src.Addr().Unmap()
		mac, known := whose[src]
		if !known && onEthernet(p, src) {
			return false
		}
		device := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: mac}}
		if !known {
			device.Addr = src.As16()
		}
		return abi.InstanceOf(device, len(tors), func(i int) bool { return open[i] }) == asks
	})
}
