package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

const (
	probeTable = plan.Table + "_probe"

	// A probe takes a softirq to arrive.
	probePatience = 500 * time.Millisecond
	probePoll     = 5 * time.Millisecond
)

// Probe is a packet that is injected as if a LAN had sent it.
type Probe struct {
	Name      string
	Dst       netip.Addr // before it is diverted; in a .onion range, so it cannot be forwarded
	Protocol  byte       // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	Untracked bool       // it arrives as it was sent, and conntrack knows nothing of it
}

// Arrived sends probes and tells which got through every input chain of the
// host to the port they were diverted to. Each is dropped right behind them:
// no process sees it and conntrack forgets it.
func Arrived(probes []Probe, send func() error) (arrived map[string]bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &nftables.Table{Name: probeTable, Family: nftables.TableFamilyINet}
	if err := addProbes(conn, t, probes); err != nil {
		return nil, fmt.Errorf("add table inet %s: %w", probeTable, err)
	}
	defer func() {
		conn.DelTable(t)
		if flush := conn.Flush(); flush != nil {
			err = errors.Join(err, fmt.Errorf("delete table inet %s: %w", probeTable, flush))
		}
	}()
	if err := send(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(probePatience); ; {
		arrived, err := readProbes(conn, t)
		if err != nil || len(arrived) == len(probes) || time.Now().After(deadline) {
			return arrived, err
		}
		time.Sleep(probePoll)
	}
}

func addProbes(conn *nftables.Conn, t *nftables.Table, probes []Probe) error {
	conn.AddTable(t)
	conn.DelTable(t) // one that a killed attach left
	conn.AddTable(t)
	c := baseChain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, plan.PriorityProbe).Chain
	c.Table = t
	conn.AddChain(c)
	for _, p := range probes {
		conn.AddObj(&nftables.NamedObj{Table: t, Name: p.Name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: probeRule(p)})
	}
	return explainWrite(conn.Flush())
}

func probeRule(p Probe) []expr.Any {
	f, key := familyOf(p.Dst), expr.CtKeyDSTIP
	if p.Dst.Is6() {
		key = expr.CtKeyDSTIP6
	}
	var destination expr.Any = &expr.Ct{Key: key, Register: reg1, OptDirection: true} // direction 0: original
	if p.Untracked {
		destination = payload(expr.PayloadBaseNetworkHeader, f.destination, f.size, reg1)
	}
	match := []expr.Any{
		meta(expr.MetaKeyNFPROTO), equal([]byte{f.number}),
		meta(expr.MetaKeyL4PROTO), equal([]byte{p.Protocol}),
		destination, equal(p.Dst.AsSlice()),
	}
	return append(match, drop(p.Name)...)
}

func readProbes(conn *nftables.Conn, t *nftables.Table) (map[string]bool, error) {
	objects, err := conn.GetNamedObjects(t)
	if err != nil {
		return nil, fmt.Errorf("read counters of table inet %s: %w", probeTable, err)
	}
	arrived := make(map[string]bool)
	for _, o := range objects {
		named, ok := o.(*nftables.NamedObj)
		if !ok {
			continue
		}
		if c, ok := named.Obj.(*expr.Counter); ok && c.Packets > 0 {
			arrived[named.Name] = true
		}
	}
	return arrived, nil
}

// ForeignInputChains names the filter chains of others at the input hook, whatever
// is in them, as `nft` would: "inet filter input".
func ForeignInputChains() ([]string, error) {
	return foreignChains(nftables.ChainHookInput, func(*nftables.Chain) bool { return true })
}

// ClosedOutputChains names those at the output hook that drop what no rule of theirs lets go.
func ClosedOutputChains() ([]string, error) {
	return foreignChains(nftables.ChainHookOutput, func(c *nftables.Chain) bool {
		return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	})
}

func foreignChains(hook *nftables.ChainHook, which func(*nftables.Chain) bool) ([]string, error) {
	chains, err := allChains()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *hook || c.Type != nftables.ChainTypeFilter || !which(c) {
			continue
		}
		family, known := familyNames[c.Table.Family]
		if !known || c.Table.Name == plan.Table || c.Table.Name == probeTable {
			continue
		}
		names = append(names, fmt.Sprintf("%s %s %s", family, c.Table.Name, c.Name))
	}
	return names, nil
}

// WGQuick names the interfaces for which wg-quick has a firewall, as it has for a tunnel that
// everything is routed to: what comes to their addresses otherwise is dropped.
func WGQuick() ([]string, error) {
	chains, err := allChains()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range chains {
		name, found := strings.CutPrefix(c.Table.Name, "wg-quick-")
		if found && c.Name == "preraw" && !slices.Contains(names, name) { // in both families, maybe
			names = append(names, name)
		}
	}
	return names, nil
}

// allChains lists those of all tables, ours and others'.
func allChains() ([]*nftables.Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return chains, nil
}

var familyNames = map[nftables.TableFamily]string{
	unix.NFPROTO_INET: "inet",
	unix.NFPROTO_IPV4: "ip",
	unix.NFPROTO_IPV6: "ip6",
}
