package plan

import (
	"fmt"
	"slices"
	"strings"
)

// FastHost is what may be in the way of the fast path, beside what is known of a host anyway.
// It is read again and again, as none of it is a part of the plan.
type FastHost struct {
	Host
	Qdiscs     []Qdisc
	Programs   []Program // of others
	Forwards   bool      // packets of a family at least
	IPsec      bool      // there are policies or states of xfrm
	Accounting bool      // conntrack counts packets (net.netfilter.nf_conntrack_acct)
	Strict     bool      // conntrack expects each segment within its window
	Flowtables []string  // of nftables
}

// Qdisc is a queueing discipline of an interface.
type Qdisc struct {
	Index int
	Kind  string
}

// Program is one that sees the packets of an interface before or after ours.
type Program struct {
	Index int
	What  string // in words
}

// plainQdiscs give each packet its turn: they do not shape, and do not sort by what only the
// slow path knows of a packet. Those of the last two hold filters, which are looked at themselves.
var plainQdiscs = []string{"noqueue", "mq", "pfifo_fast", "fq_codel", "fq", "noop", "clsact", "ingress"}

// plainKinds of interfaces hand on what they are given as it is; "" is hardware.
var plainKinds = []string{"", "veth", "vlan"}

// bareQdiscs hand on at once, or in order: frames may pass them by.
var bareQdiscs = []string{"noqueue", "mq", "pfifo_fast", "noop", "clsact", "ingress"}

// FramePorts are the interfaces between which UDP may go as frames: those with an XDP program
// in the driver, and nothing at the way out that a frame would not see.
func (p *Plan) FramePorts(h FastHost) []Link {
	native := make(map[int]bool)
	for _, l := range p.LANs {
		native[l.Index] = l.Early == EarlyNative
	}
	for _, u := range p.Uplinks {
		native[u.Index] = u.Frames == EarlyNative
	}
	for _, q := range h.Qdiscs {
		if !slices.Contains(bareQdiscs, q.Kind) {
			native[q.Index] = false
		}
	}
	var ports []Link
	for _, l := range h.Links {
		if native[l.Index] {
			ports = append(ports, l)
		}
	}
	return ports
}

// InFastPath lists what the fast path would pass by, or get wrong: why there is none for now.
// Nothing at all means that there may be one. What merely drops packets or routes them
// elsewhere is not asked for, since the slow path shows it within a second.
func (p *Plan) InFastPath(h FastHost) []string {
	var why []string
	for _, l := range p.LANs {
		why = append(why, h.inTheWay(l.Name, l.Index)...)
	}
	for _, u := range p.Uplinks {
		why = append(why, h.inTheWay(u.Name, u.Index)...)
	}
	for _, r := range h.Rules {
		why = append(why, fmt.Sprintf("an ip rule of priority %d goes by the mark %#x/%#x: it may be set by rules that the fast path passes by", r.Priority, r.Mark, r.Mask))
	}
	if len(h.Flowtables) > 0 {
		why = append(why, fmt.Sprintf("nftables has a flowtable: %s", strings.Join(h.Flowtables, ", ")))
	}
	for _, w := range []struct {
		is   bool
		text string
	}{
		{len(p.LANs) == 0, "no LAN is attached"},
		{len(p.Uplinks) == 0, "there is no uplink"},
		{!h.Forwards, "this kernel does not forward"},
		{h.BridgeNF, "nftables sees bridged packets (net.bridge.bridge-nf-call-iptables)"},
		{h.IPsec, "there are IPsec policies or states (ip xfrm)"},
		{h.Accounting, "conntrack counts packets, and would miss some: net.netfilter.nf_conntrack_acct is 1"},
		{h.Strict, "net.netfilter.nf_conntrack_tcp_be_liberal is 0, so conntrack would find the end of long connections invalid: torbpf attach sets it"},
	} {
		if w.is {
			why = append(why, w.text)
		}
	}
	return why
}

func (h FastHost) inTheWay(name string, index int) []string {
	var why []string
	l, known := h.LinkByIndex(index)
	switch {
	case !known:
		return []string{fmt.Sprintf("%s is gone", name)}
	case !l.Ethernet:
		why = append(why, fmt.Sprintf("%s has no Ethernet header", name))
	case !slices.Contains(plainKinds, l.Kind):
		why = append(why, fmt.Sprintf("%s is of kind %s", name, l.Kind))
	}
	if l.Master != 0 {
		why = append(why, fmt.Sprintf("%s is part of another interface", name))
	}
	for _, q := range h.Qdiscs {
		if q.Index == index && !slices.Contains(plainQdiscs, q.Kind) {
			why = append(why, fmt.Sprintf("%s has a qdisc %s, which may shape or sort", name, q.Kind))
		}
	}
	for _, program := range h.Programs {
		if program.Index == index {
			why = append(why, fmt.Sprintf("%s has %s of somebody else", name, program.What))
		}
	}
	return why
}
