package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/torbpf/torbpf/internal/plan"
)

// Others are the filter chains of other people's tables, as they are in the kernel. What they do
// with a packet is found out by going through them, so nothing has to be sent.
//
// It is no proof. A condition that this package does not know, such as a module of iptables',
// may hold or not, and both are followed. What iptables-legacy has is not nftables' and not seen,
// and neither are conditions that the netlink library leaves out.
type Others struct{ tables []*ruleset }

// OtherPacket is the first of a flow that arrives by an interface.
type OtherPacket struct {
	Interface  string
	Index      int
	Out        string // the interface by which it is to leave; "" for one that is delivered here
	Protocol   uint8
	Src, Dst   netip.AddrPort
	Mark       uint32
	Redirected bool // conntrack has another destination for it than it had
	Untracked  bool // conntrack knows nothing of it
}

// OtherFate is what becomes of one.
type OtherFate struct {
	Stopping []string // the chains that stop it, as nft names them: "inet filter input"
	Unknown  []string // those of which it cannot be told
}

// ReadOthers reads them.
func ReadOthers() (*Others, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var out *Others
	_, err = readUnchanged(conn, func() error {
		out = &Others{}
		chains, err := conn.ListChains()
		if err != nil {
			return fmt.Errorf("list chains: %w", explain(err))
		}
		for _, c := range chains {
			if err := out.add(conn, c); err != nil {
				return fmt.Errorf("read chain %s of table %s: %w", c.Name, c.Table.Name, err)
			}
		}
		for _, t := range out.tables {
			if err := t.readSets(conn); err != nil {
				return fmt.Errorf("read sets of table %s: %w", t.table.Name, err)
			}
		}
		return nil
	})
	return out, err
}

// add reads the rules of a chain that packets of IP may meet, and is not ours.
func (o *Others) add(conn *nftables.Conn, c *nftables.Chain) error {
	if familyNames[c.Table.Family] == "" || c.Table.Name == plan.Table || c.Table.Name == probeTable {
		return nil
	}
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return err
	}
	read := chain{Chain: c}
	for _, r := range rules {
		read.rules = append(read.rules, rule{exprs: r.Exprs})
	}
	t := o.table(c.Table)
	t.chains = append(t.chains, read)
	return nil
}

// table returns the one of a name, which it makes.
func (o *Others) table(t *nftables.Table) *ruleset {
	i := slices.IndexFunc(o.tables, func(r *ruleset) bool { return r.table.Name == t.Name && r.table.Family == t.Family })
	if i < 0 {
		o.tables = append(o.tables, &ruleset{table: t})
		i = len(o.tables) - 1
	}
	return o.tables[i]
}

func (rs *ruleset) readSets(conn *nftables.Conn) error {
	sets, err := conn.GetSets(rs.table)
	if err != nil {
		return err
	}
	for _, s := range sets {
		read := set{Set: s}
		if read.elements, err = conn.GetSetElements(s); err != nil {
			return err
		}
		for i := range read.elements {
			e := &read.elements[i]
			if hasVerdicts(s) {
				if e.VerdictData, err = decodeVerdict(e.Val); err != nil {
					return err
				}
			}
		}
		rs.sets = append(rs.sets, read)
	}
	return nil
}

// Delivered tells what becomes of a packet that is to be delivered here.
func (o *Others) Delivered(p OtherPacket) OtherFate {
	return o.fate(nftables.ChainHookInput, p)
}

// Forwarded tells what becomes of one that is to be forwarded.
func (o *Others) Forwarded(p OtherPacket) OtherFate {
	return o.fate(nftables.ChainHookForward, p)
}

func (o *Others) fate(hook *nftables.ChainHook, p OtherPacket) OtherFate {
	var fate OtherFate
	for _, t := range o.tables {
		if t.table.Family != nftables.TableFamilyINet && byte(t.table.Family) != familyOf(p.Dst.Addr()).number {
			continue
		}
		for _, c := range t.hooked(hook) {
			if c.Type != nftables.ChainTypeFilter {
				continue
			}
			name := fmt.Sprintf("%s %s %s", familyNames[t.table.Family], t.table.Name, c.Name)
			switch p.inspect(t).judge(c) {
			case mayStop:
				fate.Stopping = append(fate.Stopping, name)
			case mayStop | mayPass:
				fate.Unknown = append(fate.Unknown, name)
			}
		}
	}
	return fate
}

// Lists names the chains of a hook that others have, as "inet filter input".
func (o *Others) Lists(hook *nftables.ChainHook) []string {
	var names []string
	for _, t := range o.tables {
		for _, c := range t.hooked(hook) {
			if c.Type == nftables.ChainTypeFilter {
				names = append(names, fmt.Sprintf("%s %s %s", familyNames[t.table.Family], t.table.Name, c.Name))
			}
		}
	}
	return names
}

// Has tells whether there is a chain of that name in any table.
func (o *Others) Has(name string) bool {
	return slices.ContainsFunc(o.tables, func(t *ruleset) bool {
		return slices.ContainsFunc(t.chains, func(c chain) bool { return c.Name == name })
	})
}

// hasVerdicts tells a map of verdicts, as the kernel lists one: the size of the values is not the
// library's.
func hasVerdicts(s *nftables.Set) bool {
	return s.IsMap && s.DataType.Name == nftables.TypeVerdict.Name
}
