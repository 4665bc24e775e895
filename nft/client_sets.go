package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The sets and maps for what this machine itself sends. Of setDirect4 and 6 there is one
// for each time at which some destinations end, with a number behind its name.
const (
	setDirect4      = "client_direct4"
	setDirect6      = "client_direct6"
	setClientLocal4 = "client_local4"
	setClientLocal6 = "client_local6"
	setClientLink6  = "client_link6"
	setClientSelf4  = "client_self4"
	setClientSelf6  = "client_self6"
	setClientSettle = "client_settling"
	mapClientDivert = "client_diversions"
	mapClientGuard  = "client_verdicts"
)

// directGroup are excluded destinations that end at the same time. That time is in the rule
// that looks them up, so the elements have none: a table is then told from another by what
// it holds, and not by when it was read; and a timeout of the kernel's would not run while
// the machine sleeps.
type directGroup struct {
	until                time.Time // zero: never
	set4, set6           string
	prefixes4, prefixes6 []netip.Prefix
}

// readOpenings sorts the excluded destinations by when they end.
func (b *builder) readOpenings() error {
	sorted := slices.Clone(b.Client.Direct)
	slices.SortStableFunc(sorted, func(x, y plan.Opening) int { return x.Until.Compare(y.Until) })
	for _, o := range sorted {
		if o.Ends != 0 && o.Until.IsZero() {
			return fmt.Errorf("excluded destination %s: it ends, but nobody says when by the wall clock", o.Prefix)
		}
		n := len(b.direct)
		if n == 0 || !b.direct[n-1].until.Equal(o.Until) {
			b.direct = append(b.direct, directGroup{until: o.Until, set4: numbered(setDirect4, n), set6: numbered(setDirect6, n)})
		}
		last := &b.direct[len(b.direct)-1]
		if o.Prefix.Addr().Is4() {
			last.prefixes4 = append(last.prefixes4, o.Prefix.Masked())
		} else {
			last.prefixes6 = append(last.prefixes6, o.Prefix.Masked())
		}
	}
	return nil
}

func numbered(name string, n int) string {
	if n == 0 {
		return name
	}
	return fmt.Sprintf("%s_%d", name, n)
}

func (b *builder) clientSets() ([]set, error) {
	if b.Client == nil {
		return nil, nil
	}
	local := slices.Concat(b.Client.Local, b.ofLANs())
	if b.LocalMode == config.LocalNone {
		local = nil
	}
	local4, err := subnetSet(setClientLocal4, nftables.TypeIPAddr, netip.Addr.Is4, local)
	if err != nil {
		return nil, err
	}
	local6, err := subnetSet(setClientLocal6, nftables.TypeIP6Addr, netip.Addr.Is6, local)
	if err != nil {
		return nil, err
	}
	link6, err := subnetSet(setClientLink6, nftables.TypeIP6Addr, netip.Addr.Is6, b.Client.OnLink)
	if err != nil {
		return nil, err
	}
	sets := append([]set{local4, local6, link6}, b.selfSets()...)
	const why = "destinations that go direct"
	for _, o := range b.direct {
		if len(o.prefixes4) > 0 {
			sets = append(sets, prefixSet(o.set4, why, nftables.TypeIPAddr, o.prefixes4))
		}
		if len(o.prefixes6) > 0 {
			sets = append(sets, prefixSet(o.set6, why, nftables.TypeIP6Addr, o.prefixes6))
		}
	}
	for _, e := range b.Client.Exits {
		if _, err := ifname(e.Name); err != nil {
			return nil, err
		}
		if e.Rule < 0 || e.Rule >= len(b.Client.Rules) {
			return nil, errors.New("an excluded interface of this machine is of no rule")
		}
	}
	sets = append(sets, b.classMap(mapClientDivert, b.clientDiversions()), b.classMap(mapClientGuard, b.clientVerdicts()))
	if b.Client.All {
		sets = append(sets, b.clientSettlingSet())
	}
	return sets, nil
}

// ofLANs are the subnets that LANs lead to: what this machine tells its devices, public
// addresses or not, is no way out.
func (b *builder) ofLANs() []plan.LocalSubnet {
	return slices.DeleteFunc(slices.Clone(b.Local), func(s plan.LocalSubnet) bool {
		return !slices.Contains(b.LANNames(), s.Name)
	})
}

// prefixSet holds disjoint prefixes, each as its first address and the first behind it.
func prefixSet(name, comment string, kind nftables.SetDatatype, prefixes []netip.Prefix) set {
	s := set{Set: &nftables.Set{Name: name, KeyType: kind, Interval: true, Comment: comment}}
	for _, p := range config.MergePrefixes(prefixes) {
		first, last := bounds(p)
		s.elements = append(s.elements, nftables.SetElement{Key: first})
		end, _ := netip.AddrFromSlice(last)
		if end = end.Next(); end.IsValid() {
			s.elements = append(s.elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return s
}

// clientSettlingSet holds both families for the first minutes of client mode.
func (b *builder) clientSettlingSet() set {
	s := set{Set: &nftables.Set{
		Name: setClientSettle, KeyType: nftables.TypeNFProto,
		HasTimeout: true, Timeout: plan.CutTime, Comment: "families whose flows may be older than our table",
	}}
	if b.freshClient {
		for _, f := range []family{ipv4, ipv6} {
			s.elements = append(s.elements, nftables.SetElement{Key: []byte{f.number}, Timeout: plan.CutTime})
		}
	}
	s.keeps = func([]byte) bool { return !b.freshClient }
	return s
}
