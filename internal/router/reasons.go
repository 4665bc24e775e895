package router

import (
	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/loader"
)

// RefusedByReason is what has been refused since attach, by reason, as status counts it. It
// reads one map alone, so it may be asked each second.
func (r *Router) RefusedByReason() (map[string]loader.Traffic, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	counters, err := d.Counters()
	if err != nil {
		return nil, err
	}
	out := make(map[string]loader.Traffic)
	for _, c := range counters {
		if c.Verdict == abi.VerdictRefused {
			t := out[c.Reason.String()]
			out[c.Reason.String()] = loader.Traffic{Packets: t.Packets + c.Packets, Bytes: t.Bytes + c.Bytes}
		}
	}
	return out, nil
}
