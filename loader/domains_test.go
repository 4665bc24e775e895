package loader

import (
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// TestANameThatIsExcludedAgainHasNoOldAnswers nor flows, whether its rule was removed or has
// ended; those of names that stay excluded stay.
func TestANameThatIsExcludedAgainHasNoOldAnswers(t *testing.T) {
	l := newLab(t)
	d := l.open(t, false)
	with := func(names ...config.Rule) {
		p := l.plan()
		p.Rules = append(p.Rules, names...)
		apply(t, d, p)
	}
	rule := func(name string) config.Rule {
		return config.Direct(config.Entry{Kind: config.KindDomain, Domain: name})
	}
	ended := rule("ended.example")
	ended.Until, ended.Ends = time.Unix(1, 0), 1
	stays, gone := rule("stays.example"), rule("gone.example")
	with(stays, gone, ended)
	all := []config.Rule{stays, gone, ended}
	for i, r := range all {
		writeAnswer(t, d, uint32(i), r.Domain)
	}
	with(stays, gone, ended)
	expectAnswers(t, d, map[string]bool{"stays.example": true, "gone.example": true, "ended.example": false}, all)
	with(stays)
	with(stays, gone, rule("ended.example"))
	expectAnswers(t, d, map[string]bool{"stays.example": true, "gone.example": false, "ended.example": false}, all)
}

// writeAnswer has a device been told of a name, and begun a flow by it.
func writeAnswer(t *testing.T, d *Datapath, i uint32, name string) {
	t.Helper()
	slots, err := d.DomainSlots()
	must(t, err)
	defer slots.Close()
	must(t, slots.Put(i, abi.DatapathDomainSlot{UntilNs: 1 << 62, Domain: abi.DomainKey(name)}))
	flows, err := d.openMap(abi.DatapathMapDomainFlows)
	must(t, err)
	defer flows.Close()
	must(t, flows.Put(abi.DatapathFlow{Protocol: i}, abi.DatapathDomainFlow{Domain: abi.DomainKey(name), SeenNs: 1 << 62}))
}

// expectAnswers says of which names something is still written down; the slot and the flow
// of each are those of its place in the list.
func expectAnswers(t *testing.T, d *Datapath, want map[string]bool, all []config.Rule) {
	t.Helper()
	slots, err := d.DomainSlots()
	must(t, err)
	defer slots.Close()
	flows, err := d.DomainFlows()
	must(t, err)
	begun := make(map[uint64]bool)
	for _, domain := range flows {
		begun[domain] = true
	}
	for i, r := range all {
		var slot abi.DatapathDomainSlot
		must(t, slots.Lookup(uint32(i), &slot))
		if told := slot.UntilNs != 0; told != want[r.Domain] || begun[abi.DomainKey(r.Domain)] != want[r.Domain] {
			t.Errorf("%s: written down as told %t, as begun %t, want %t", r.Domain, told, begun[abi.DomainKey(r.Domain)], want[r.Domain])
		}
	}
}
