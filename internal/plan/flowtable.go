package plan

import (
	"fmt"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// FlowDevices are the interfaces whose packets the flowtable takes: LANs and uplinks, sorted.
func (p *Plan) FlowDevices() []string {
	names := append(p.LANNames(), p.UplinkNames()...)
	slices.Sort(names)
	return slices.Compact(names)
}

// UplinkNames returns the names of the uplinks.
func (p *Plan) UplinkNames() []string {
	names := make([]string, 0, len(p.Uplinks))
	for _, u := range p.Uplinks {
		names = append(names, u.Name)
	}
	return names
}

// classlessQdiscs shape or mix, by nothing that a rule would have to set on each packet; those
// that hand on as they get are plainQdiscs.
var classlessQdiscs = []string{"tbf", "codel", "sfq", "pie", "fq_pie", "red", "netem"}

// InFlowtable lists what a flowtable would get wrong, or let out too long: why there is none for
// now. What merely drops, routes or counts is not asked for: that accelerated flows pass it by is
// what a flowtable is.
func (p *Plan) InFlowtable(h FastHost) []string {
	why := p.stacked(h)
	for _, q := range h.Qdiscs {
		l, known := h.LinkByIndex(q.Index)
		if known && slices.Contains(p.FlowDevices(), l.Name) && !slices.Contains(plainQdiscs, q.Kind) && !slices.Contains(classlessQdiscs, q.Kind) {
			why = append(why, fmt.Sprintf("%s has a qdisc %s, which may sort by what rules set on each packet", l.Name, q.Kind))
		}
	}
	for _, r := range p.Rules {
		if letsOutFor(r) {
			why = append(why, fmt.Sprintf("an exclusion ends by the clock, which accelerated flows would outlive: %s", r.Words()))
		}
	}
	for _, w := range []struct {
		is   bool
		text string
	}{
		{len(p.LANs) == 0, "no LAN is attached"},
		{len(p.Uplinks) == 0, "there is no uplink"},
		{!h.Forwards, "this kernel does not forward"},
		{h.IPsec, "there are IPsec policies or states (ip xfrm), which answers would pass by"},
	} {
		if w.is {
			why = append(why, w.text)
		}
	}
	return why
}

// stacked finds devices that are gone, and one that lies upon another: the kernel would send by
// the lower one at once, past the guard of the upper.
func (p *Plan) stacked(h FastHost) []string {
	var why []string
	devices := p.FlowDevices()
	for _, name := range devices {
		l, known := h.LinkByName(name)
		if !known {
			why = append(why, name+" is gone")
			continue
		}
		for _, below := range h.below(l) {
			if slices.Contains(devices, below.Name) {
				why = append(why, fmt.Sprintf("%s lies upon %s, by which its flows would leave past its guard", name, below.Name))
			}
		}
	}
	return why
}

// below are the interfaces that carry another one's packets, as far down as they go.
func (h FastHost) below(l Link) []Link {
	var out []Link
	for _, lower := range h.Links {
		if lower.Index == l.Parent || lower.Master == l.Index {
			out = append(append(out, lower), h.below(lower)...)
		}
	}
	return out
}

// letsOutFor tells whether a rule, or one that comes into force when it is over, lets out for a
// time by what no mark says of a packet. Flows of names are left to the kernel's forwarding
// anyhow, and those by mark or interface are of another class.
func letsOutFor(r config.Rule) bool {
	switch r.Kind {
	case config.KindMark, config.KindInterface, config.KindDomain:
		return false
	}
	for layer := &r; layer != nil; layer = layer.Beneath {
		if layer.Policy == config.PolicyDirect && !layer.Until.IsZero() {
			return true
		}
	}
	return false
}
