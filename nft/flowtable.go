package nft

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// What a flowtable takes, beside the rest of the table: which of the devices are uplinks, and
// the chain that puts flows into it.
const (
	flowtableName   = "direct"
	setUplinks      = "uplinks"
	chainAccelerate = "accelerate"
)

// statusAssured is IPS_ASSURED: both sides go on.
const statusAssured = 1 << 2

// Accelerate makes the table what Apply has made it, with a flowtable for flows of class direct
// between the plan's LANs and uplinks. Those that are in it are what other rules let through
// before; later ones they pass by. So Decelerate has to come before a policy that lets out less,
// and this behind it, when what is direct no more has been deleted from conntrack. An error that
// is kernel.ErrMissing says that this kernel has no flowtables.
func Accelerate(p *plan.Plan) error {
	if err := Decelerate(); err != nil { // older kernels do not exchange one for another
		return err
	}
	err := accelerate(builder{Plan: p, accelerates: true})
	if lacksLookUp(err) && (&builder{Plan: p}).looksUp() {
		err = accelerate(builder{Plan: p, accelerates: true, strict: true})
	}
	if !lacksLookUp(err) {
		return err
	}
	// Before Linux 6.16 the kernel says the same of a device that has just gone.
	for _, name := range p.FlowDevices() {
		if _, gone := net.InterfaceByName(name); gone != nil {
			return fmt.Errorf("add a flowtable for %s: %w", name, gone)
		}
	}
	return errLacking()
}

// TryFlowtable makes one, for a namespace that nobody needs: an error that is kernel.ErrMissing says
// that this kernel has none.
func TryFlowtable() error {
	b := builder{Plan: &plan.Plan{LANs: []plan.LAN{{Name: "lo"}}}, accelerates: true}
	rs := &ruleset{table: table(), flowtables: b.flowtables(), sets: append(b.uplinkSet(), interfaceSet(setLANs, "", nil)), chains: b.accelerateChains()}
	for _, s := range rs.sets {
		s.Table = rs.table
	}
	for _, c := range rs.chains {
		c.Table = rs.table
	}
	if err := rs.apply(); !lacksLookUp(err) {
		return err
	}
	return errLacking()
}

func errLacking() error {
	return kernel.Lacks(errors.New("this kernel has no flowtables"), "for one CONFIG_NF_FLOW_TABLE_INET, CONFIG_NFT_FLOW_OFFLOAD and CONFIG_NETFILTER_INGRESS")
}

func accelerate(b builder) error {
	rs, err := b.build()
	if err != nil {
		return err
	}
	return rs.apply()
}

// Decelerate takes the flowtable away, and what puts flows into it: what is in it goes on through
// all rules. Nothing else changes.
func Decelerate() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for range attempts {
		err := decelerate(conn)
		if !errors.Is(err, unix.ERESTART) {
			return err
		}
	}
	return fmt.Errorf("remove the flowtable of table inet %s: %w", plan.Table, errBusy)
}

func decelerate(conn *nftables.Conn) error {
	var flowtables []*nftables.Flowtable
	var chains map[string]*nftables.Chain
	generation, err := readUnchanged(conn, func() (err error) {
		if flowtables, err = listFlowtables(conn); err != nil || len(flowtables) == 0 {
			return err
		}
		chains, err = listChains(conn)
		return err
	})
	if err != nil || len(flowtables) == 0 {
		return err
	}
	if c := chains[chainAccelerate]; c != nil {
		conn.FlushChain(c)
		conn.DelChain(c)
	}
	for _, f := range flowtables {
		conn.DelFlowtable(f)
	}
	if err := conn.FlushWithGenID(generation); err != nil {
		return fmt.Errorf("remove the flowtable of table inet %s: %w", plan.Table, explain(err))
	}
	return nil
}

// Accelerates reports whether our table has a flowtable.
func Accelerates() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	return accelerates(conn)
}

func accelerates(conn *nftables.Conn) (found bool, err error) {
	_, err = readUnchanged(conn, func() error {
		flowtables, err := listFlowtables(conn)
		found = len(flowtables) > 0
		return err
	})
	return found, err
}

// listFlowtables returns those of our table; none if there is none.
func listFlowtables(conn *nftables.Conn) ([]*nftables.Flowtable, error) {
	t, err := findTable(conn)
	if err != nil || t == nil {
		return nil, err
	}
	return flowtablesOf(conn, t)
}

func flowtablesOf(conn *nftables.Conn, t *nftables.Table) ([]*nftables.Flowtable, error) {
	flowtables, err := conn.ListFlowtables(t)
	if err != nil {
		return nil, fmt.Errorf("list flowtables of table %s: %w", t.Name, err)
	}
	return flowtables, nil
}

// flowtables is the one for flows of class direct. It counts in conntrack where the user wants
// that (net.netfilter.nf_conntrack_acct); the flag for hardware is never set, since the programs
// do not see what a card forwards.
func (b *builder) flowtables() []*nftables.Flowtable {
	if !b.accelerates {
		return nil
	}
	return []*nftables.Flowtable{{
		Name: flowtableName, Table: table(), Devices: b.FlowDevices(), Flags: nftables.FlowtableFlagsCounter,
		Hooknum: nftables.FlowtableHookIngress, Priority: nftables.FlowtablePriorityFilter,
	}}
}

// accelerateChains put into the flowtable what a LAN has begun, answers have come to, and all rules
// of the user's have let out by an uplink just now. What carries a way beside its class may end by
// itself.
func (b *builder) accelerateChains() []chain {
	if !b.accelerates {
		return nil
	}
	direct := b.Mark.Class(uint32(abi.VerdictDirect))
	add := newRule("past all rules from now on, but for the programs at the interfaces",
		[]expr.Any{meta(expr.MetaKeyOIFNAME), in(setUplinks)}, ctDirection(original), ctAssured(),
		[]expr.Any{&expr.FlowOffload{Name: flowtableName}})
	return []chain{baseChain(chainAccelerate, nftables.ChainTypeFilter, nftables.ChainHookForward, plan.PriorityAccelerate,
		newRule("not direct, or direct for a while only", markIsNot(direct, b.Mark.Mask()), accept()),
		newRule("not a LAN's by this name", notFromLAN(), accept()),
		add)}
}

func ctAssured() []expr.Any {
	return []expr.Any{ct(expr.CtKeySTATUS), and(native(statusAssured)), notEqual(native(0))}
}

// uplinkSet holds the interfaces at which the last guard is.
func (b *builder) uplinkSet() []set {
	if !b.accelerates {
		return nil
	}
	return []set{interfaceSet(setUplinks, "interfaces that lead outside", slices.Compact(slices.Sorted(slices.Values(b.UplinkNames()))))}
}

// compareFlowtables compares names, places and devices. Before Linux 6.16 an interface that was
// renamed is in the kernel's by its new name, and one that is gone is not; later the names stay.
func (rs *ruleset) compareFlowtables(conn *nftables.Conn) ([]string, error) {
	have, err := flowtablesOf(conn, rs.table)
	if err != nil {
		return nil, err
	}
	var want, names, differences []string
	for _, f := range rs.flowtables {
		want = append(want, f.Name)
	}
	for _, f := range have {
		names = append(names, f.Name)
		for _, w := range rs.flowtables {
			if w.Name == f.Name && !sameFlowtable(w, f) {
				differences = append(differences, fmt.Sprintf("flowtable %s has other devices (%v), flags or priority", f.Name, f.Devices))
			}
		}
	}
	return append(compareNames("flowtable", want, names), differences...), nil
}

func sameFlowtable(a, b *nftables.Flowtable) bool {
	return equalOrNil(a.Hooknum, b.Hooknum) && equalOrNil(a.Priority, b.Priority) && a.Flags == b.Flags &&
		slices.Equal(slices.Sorted(slices.Values(a.Devices)), slices.Sorted(slices.Values(b.Devices)))
}

// Flowtables names the flowtables of all tables: "TABLE NAME".
func Flowtables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var names []string
	_, err = readUnchanged(conn, func() error {
		names = nil
		tables, err := conn.ListTables()
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		for _, t := range tables {
			flowtables, err := flowtablesOf(conn, t)
			if err != nil {
				return err
			}
			for _, f := range flowtables {
				names = append(names, t.Name+" "+f.Name)
			}
		}
		return nil
	})
	return names, err
}
