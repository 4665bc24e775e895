package host

import (
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestReadFast: what may be in the way comes and goes.
func TestReadFast(t *testing.T) {
	enterNamespace(t)
	run(t, "ip link add near type veth peer name far")
	read := func() plan.FastHost {
		t.Helper()
		h, err := ReadFast()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	near, _ := read().LinkByName("near")
	set(t, "net.ipv4.ip_forward", "0")
	for _, c := range []struct {
		what     string
		do, undo string
		is       func(plan.FastHost) bool
	}{
		{"a qdisc", "tc qdisc add dev near root tbf rate 1mbit burst 10k latency 50ms", "tc qdisc del dev near root",
			func(h plan.FastHost) bool {
				return slices.Contains(h.Qdiscs, plan.Qdisc{Index: near.Index, Kind: "tbf"})
			}},
		{"a rule by mark", "ip rule add fwmark 7 lookup 77", "ip rule del fwmark 7 lookup 77",
			func(h plan.FastHost) bool { return len(h.Rules) == 1 && h.Rules[0].Mark == 7 }},
		{"a policy of IPsec", "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out action block", "ip xfrm policy flush",
			func(h plan.FastHost) bool { return h.IPsec }},
		{"forwarding", "sysctl -q -w net.ipv4.ip_forward=1", "sysctl -q -w net.ipv4.ip_forward=0",
			func(h plan.FastHost) bool { return h.Forwards }},
		{"accounting", "sysctl -q -w net.netfilter.nf_conntrack_acct=1", "sysctl -q -w net.netfilter.nf_conntrack_acct=0",
			func(h plan.FastHost) bool { return h.Accounting }},
		{"windows that do not matter", "sysctl -q -w net.netfilter.nf_conntrack_tcp_be_liberal=1", "sysctl -q -w net.netfilter.nf_conntrack_tcp_be_liberal=0",
			func(h plan.FastHost) bool { return !h.Strict }},
	} {
		for _, now := range []bool{false, true, false} {
			if is := c.is(read()); is != now {
				t.Errorf("%s: %t, want %t", c.what, is, now)
			}
			if now {
				run(t, c.undo)
			} else {
				run(t, c.do)
			}
		}
		run(t, c.undo)
	}
}
