package router

import (
	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// ofTorItself is, among the fates of what this machine sends, what tor does.
const ofTorItself = "tor_itself"

// behind counts what nftables has let pass and somebody behind it has refused.
type behind struct {
	// NotReady are packets to tor that the kernel has answered with a reset, since the gate
	// was shut. It knows no more of them than the ports.
	NotReady uint64 `json:"not_ready"`
	// Ended is what was direct by a rule that has ended, and nobody was there to say so.
	Ended loader.Traffic `json:"ended"`
}

// readBehind sums it up; of uplinks with Ethernet the guard counts that header as well.
func readBehind(counters []loader.Counter, p *plan.Plan) behind {
	ethernet := make(map[uint32]bool)
	for _, u := range p.Uplinks {
		ethernet[uint32(u.Index)] = u.Ethernet
	}
	var b behind
	for _, c := range counters {
		switch {
		case c.Reason == abi.ReasonTorNotReady && c.Ifindex == plan.LoopbackIndex:
			b.NotReady += c.Packets
		case c.Reason == abi.ReasonClientEnded:
			b.Ended.Packets += c.Packets
			b.Ended.Bytes += c.Bytes
			if ethernet[c.Ifindex] {
				b.Ended.Bytes -= c.Packets * loader.EthernetHeader
			}
		}
	}
	return b
}

// since is what has been counted after another time; what has begun anew meanwhile counts whole.
func (b behind) since(then behind) behind {
	if b.NotReady >= then.NotReady {
		b.NotReady -= then.NotReady
	}
	b.Ended = less(b.Ended, then.Ended)
	return b
}

func less(t, by loader.Traffic) loader.Traffic {
	if t.Packets < by.Packets || t.Bytes < by.Bytes {
		return t
	}
	return loader.Traffic{Packets: t.Packets - by.Packets, Bytes: t.Bytes - by.Bytes}
}

// ownTraffic is what this machine itself has sent, by its fate; empty where nobody counts.
func ownTraffic(since behind) (map[string]loader.Traffic, error) {
	t, found, err := nft.ReadOwnTraffic()
	out := make(map[string]loader.Traffic)
	if err != nil || !found {
		return out, err
	}
	notReady := min(since.NotReady, t.Tor.Packets)
	out[abi.FateNames[abi.FateTor]] = loader.Traffic{Packets: t.Tor.Packets - notReady, Bytes: t.Tor.Bytes}
	out[abi.FateNames[abi.FateDirect]] = less(loader.Traffic(t.Direct), since.Ended)
	out[abi.FateNames[abi.FateLocal]] = loader.Traffic(t.Local)
	out[abi.FateNames[abi.FateRefused]] = loader.Traffic{
		Packets: t.Refused.Packets + notReady + since.Ended.Packets, Bytes: t.Refused.Bytes + since.Ended.Bytes,
	}
	out[ofTorItself] = loader.Traffic(t.OfTor)
	return out, nil
}

// beginCounting notes what was refused behind nftables before that counts, as it does not
// while there is no table for it.
func (j *job) beginCounting() error {
	if _, counts, err := nft.ReadOwnTraffic(); counts || err != nil {
		return err
	}
	counters, err := j.datapath.Counters()
	if err != nil {
		return err
	}
	j.state.Behind = readBehind(counters, j.plan)
	return nil
}
