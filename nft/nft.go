// Package nft owns one nftables table, inet torbpf, and nothing else on the
// host. A plan becomes a ruleset value (ruleset.go), and that replaces the
// table in one transaction: a packet meets the old rules or the new, never
// none. What the table does with the class that tc wrote into the mark:
//
//	         prerouting                                    forward            postrouting
//	-199 classify ─▶ -120 late_marks ─▶ -110 divert ─┬─▶ -10 forward ───▶ -199 openings
//	drop peers of    class of what      to tor and   │    blocked classes  a connection from
//	cut flows, let   the user marks     the sentry   │    end here         outside to a LAN
//	replies out      is cleared         (nat)        │                     is remembered (nat)
//	                                                 └─▶ -10 input
//	                                                      our ports, only as diverted
//
// In client mode there are chains for what the machine itself sends, too, and what carries
// no class gets it there:
//
//	     output                                                       postrouting
//	-120 client_classify ─▶ -110 client_divert ─▶ -10 client_guard ──▶ -110 client_snat
//	a class, unless the     to tor and the        passes what may     what was redirected
//	socket has one          sentry, over lo       leave, refuses      comes from loopback (nat)
//	                        (nat)                 all else
//	     input                                                    ──▶ -10 client_egress
//	-199 client_openings                                              by the interfaces that
//	a connection from outside is remembered (nat)                     it may leave by only,
//	                                                                  and counts what passes
//
// The nat chains are asked once for each connection, the others for each
// packet; so those begin with what most packets fail in the fewest steps.
//
// All functions work on the network namespace of the calling thread.
package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// attempts bounds how often we begin again because somebody else changed
// nftables between our reading and our writing.
const attempts = 64

// errBusy is what remains when they are spent.
var errBusy = errors.New("some program keeps changing nftables, try again once it rests")

// explain marks that the kernel has no nf_tables, or does not let us use it.
func explain(err error, also ...unix.Errno) error {
	return kernel.Explain(err, "nf_tables with NAT (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_REJECT, CONFIG_NFT_CT)", also...)
}

// explainWrite is explain for a transaction that needs nothing to be there: what is not is then
// a kind of chain or of expression, whose module is missing.
func explainWrite(err error) error { return explain(err, unix.ENOENT) }

// generationOf returns nftables' number of the present state. The library does
// not hand on why it cannot; a listing fails for the same reason, and says it.
func generationOf(conn *nftables.Conn) (uint32, error) {
	generation, err := conn.GetGen()
	if err != nil {
		_, reason := findTable(conn)
		return 0, errors.Join(fmt.Errorf("read the nftables generation: %w", err), reason)
	}
	return generation.ID, nil
}

// table names our table; a fresh value, since nftables.Conn may write to it.
func table() *nftables.Table {
	return &nftables.Table{Name: plan.Table, Family: nftables.TableFamilyINet}
}

// lacksLookUp tells whether the kernel may have refused a rule for a look-up that it has not:
// the module is not there, or, before Linux 5.14, not for the hook.
func lacksLookUp(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)
}

// Apply makes the table what the plan says, whatever it was before. Peers that
// are cut off stay so for the rest of their time, and counters go on. The fresh
// are those LANs of the plan that were not attached until now: for a while only
// what the user's rules translate, or a SYN, counts as begun outside there. So do all
// LANs if there is no table: whoever was cut off before is forgotten with it.
func Apply(p *plan.Plan, fresh ...string) error {
	there, err := Present()
	if err != nil {
		return err
	}
	if !there {
		fresh = p.LANNames()
	}
	b := builder{Plan: p, fresh: fresh}
	if judged, err := judgesClient(); err != nil {
		return err
	} else if !judged {
		b.freshClient = true
	}
	rs, err := b.build()
	if err != nil {
		return err
	}
	err = rs.apply()
	if lacksLookUp(err) && b.looksUp() {
		b.strict = true
		if rs, err = b.build(); err != nil {
			return err
		}
		err = rs.apply()
	}
	if lacksLookUp(err) && p.TProxy {
		return kernel.Lacks(err, `for tcp_mode "tproxy" a kernel whose nftables looks sockets up (CONFIG_NFT_SOCKET): choose "redirect" (--tcp-mode)`)
	}
	return err
}

// judgesClient reports whether there is a table that judges all of what this machine
// itself sends.
func judgesClient() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := listChains(conn)
	if err != nil {
		return false, err
	}
	guard := chains[chainClientGuard]
	return guard != nil && guard.Policy != nil && *guard.Policy == nftables.ChainPolicyDrop, nil
}

func (rs *ruleset) apply() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for range attempts {
		err := rs.replace(conn)
		if !errors.Is(err, unix.ERESTART) {
			return err
		}
	}
	return fmt.Errorf("replace table inet %s: %w", plan.Table, errBusy)
}

// readUnchanged reads until nobody changed nftables meanwhile, and returns the
// generation that was read. A listing of two halves says nothing, and neither
// does its error.
func readUnchanged(conn *nftables.Conn, read func() error) (generation uint32, err error) {
	for range attempts {
		before, err := generationOf(conn)
		if err != nil {
			return 0, err
		}
		if err := awaitCommit(conn, before); err != nil {
			return 0, err
		}
		readErr := read()
		after, err := generationOf(conn)
		if err != nil {
			return 0, err
		}
		if before == after {
			return before, readErr
		}
	}
	return 0, fmt.Errorf("read table inet %s: %w", plan.Table, errBusy)
}

// awaitCommit returns once the transaction that made a generation is done. The
// kernel counts a generation before its listings show all of it (the elements
// of interval sets come last), but it has one transaction wait for another: so
// this queues up with one that it refuses unread, for naming a generation that
// is out of reach.
func awaitCommit(conn *nftables.Conn, generation uint32) error {
	const outOfReach = 1 << 31
	conn.AddTable(table())
	err := conn.FlushWithGenID(generation ^ outOfReach)
	if err == nil || errors.Is(err, unix.ERESTART) {
		return nil
	}
	return fmt.Errorf("await the nftables transactions of others: %w", explain(err))
}

// Remove deletes the table, if it is there, and that of a probe that was killed.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", explain(err, unix.EINVAL)) // see findTable
	}
	for _, t := range tables {
		if t.Name != plan.Table && t.Name != probeTable {
			continue
		}
		conn.DelTable(t)
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete table inet %s: %w", t.Name, explain(err))
		}
	}
	return nil
}

// Present reports whether there is a table of our name.
func Present() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	found, err := findTable(conn)
	return found != nil, err
}

// Guards reports whether our chains at the hooks have rules: somebody may have emptied
// the table. Those for what LANs send to Tor, and for what this machine itself sends, need
// not be there.
func Guards() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	t, err := findTable(conn)
	if err != nil || t == nil {
		return false, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list chains: %w", err)
	}
	for _, name := range []string{chainForward, chainInput, chainDivert, chainClientClassify, chainClientGuard} {
		there := slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == t.Name && c.Name == name })
		if !there && name != chainForward && name != chainInput {
			continue
		}
		if whole, err := hasRules(conn, t, name); err != nil || !whole {
			return false, err
		}
	}
	return true, nil
}

func hasRules(conn *nftables.Conn, t *nftables.Table, name string) (bool, error) {
	rules, err := conn.GetRules(t, &nftables.Chain{Name: name})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("list rules of chain %s: %w", name, err)
	}
	return len(rules) > 0, nil
}
