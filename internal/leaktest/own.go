package leaktest

import "slices"

// Faults of what client mode is made of, where the router itself is the one that sends.
var (
	uplinkGone = Fault{Name: "tcx program of the uplink gone", part: "tc", Unframed: true, Inflict: func(b *Bench) error {
		return remove(b.pins("links", "uplink-[0-9]*"))
	}}
	cgroupGone = Fault{Name: "programs of the control groups gone", part: "cgroup", Inflict: func(b *Bench) error {
		return remove(b.pins("links", "client_*"))
	}}
)

// ownFaults are the part of the table in which the router itself tries everything: what
// can be taken from client mode, and pairs of it.
func ownFaults() []Fault {
	var out []Fault
	for _, f := range slices.Concat(killFaults(), tableFaults()) {
		if f.Name == "our nft set of LANs emptied" || f.Name == forwardGone.Name {
			continue // there are none without a LAN
		}
		out = append(out, f)
	}
	out = append(out, uplinkGone, cgroupGone, unframed(allPinsGone), unframed(foreignAtWAN),
		Fault{Name: "tc qdisc del clsact (uplink)", Unframed: true, Args: clsact, Inflict: lines("tc qdisc del dev eth0 clsact")},
		Fault{Name: "client mode again, ten times", Inflict: repeat(10, func(b *Bench, _ int) error { return b.attach() })},
		Fault{Name: "LAN attached and detached, five times", Inflict: repeat(10, func(b *Bench, i int) error {
			if i%2 == 0 {
				return b.torbpf("attach", lan, "--no-wait")
			}
			return b.torbpf("detach", lan)
		})},
	)
	for _, f := range uplinkFaults() {
		if f.Name != "default route by a LAN's neighbour" {
			out = append(out, unframed(f))
		}
	}
	parts := []Fault{uplinkGone, tableGone, rulesetGone, allKilled, cgroupGone}
	for i, first := range parts {
		for _, second := range parts[i+1:] {
			if first.part != second.part {
				out = append(out, together(nil, first, second))
			}
		}
	}
	for i := range out {
		out[i].Name, out[i].Own = "client: "+out[i].Name, true
	}
	return out
}

// unframed is a fault that leaves an uplink without its guard, or takes the interface away.
func unframed(f Fault) Fault {
	f.Unframed = true
	return f
}
