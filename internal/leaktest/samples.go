package leaktest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// measure is one thing that must not grow.
type measure struct {
	name string
	read func(*Bench) (int, error)
	// slack is by how much it may differ beside a quarter: processes come and go, and
	// with them what they hold. Of what has none every single one counts.
	slack int
	// told only: it grows to a bound of its own, or others have part in it.
	told bool
}

var measures = []measure{
	{"memory of torbpf (KiB)", func(b *Bench) (int, error) { return b.sum(memory, commOurs) }, 8 << 10, false},
	{"memory of tor (KiB)", func(b *Bench) (int, error) { return b.sum(memory, commTor) }, 16 << 10, false},
	{"descriptors of torbpf", func(b *Bench) (int, error) { return b.sum(descriptors, commOurs) }, 8, false},
	{"descriptors of tor", func(b *Bench) (int, error) { return b.sum(descriptors, commTor) }, 64, false},
	{"processes", func(b *Bench) (int, error) {
		found, err := b.processes(commTor, commOurs)
		return len(found), err
	}, 0, false},
	{"pinned BPF maps, programs and links", (*Bench).pinned, 0, false},
	{"tc programs at the interfaces", (*Bench).attached, 0, false},
	{"nft rules", func(b *Bench) (int, error) { return b.inTable(countRules) }, 0, false},
	{"nft elements", func(b *Bench) (int, error) { return b.inTable(countElements(false)) }, 0, false},
	{"nft elements of cut peers (each for ten minutes)", func(b *Bench) (int, error) { return b.inTable(countElements(true)) }, 0, true},
	{"ip rules", (*Bench).rules, 0, false},
	{"tracked connections", (*Bench).tracked, 0, true},
	{"BPF programs of this machine named torbpf", func(*Bench) (int, error) { return loaded() }, 0, true},
}

// sample reads all measures.
func (b *Bench) sample() ([]int, error) {
	out := make([]int, len(measures))
	for i, m := range measures {
		var err error
		if out[i], err = m.read(b); err != nil {
			return nil, fmt.Errorf("measure %s: %w", m.name, err)
		}
	}
	return out, nil
}

// sum adds up what processes of a name have.
func (b *Bench) sum(of func(pid int) (int, error), name string) (int, error) {
	found, err := b.processes(name)
	total := 0
	for pid := range found {
		n, err := of(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, err
}

func memory(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, nil // it has ended
	}
	pages, err := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() >> 10, err
}

func descriptors(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}

func (b *Bench) pinned() (int, error) {
	n := 0
	err := filepath.WalkDir(b.pins(), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return n, err
}

// attached counts the programs at both directions of all interfaces, by tcx or as
// filters.
func (b *Bench) attached() (int, error) {
	n := 0
	links, err := b.Lab.Router.Netlink().LinkList()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := b.Lab.Router.Netlink().FilterList(l, parent)
			if err != nil {
				return 0, err
			}
			n += len(filters)
		}
	}
	err = b.Lab.Router.Do(func() error {
		for _, l := range links {
			for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				chain, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: hook})
				if errors.Is(err, unix.EINVAL) {
					continue // a kernel without tcx
				}
				if err != nil {
					return err
				}
				n += len(chain.Programs)
			}
		}
		return nil
	})
	return n, err
}

// inTable counts in our nft table.
func (b *Bench) inTable(count func(*nftables.Conn, *nftables.Table) (int, error)) (int, error) {
	n := 0
	err := b.Lab.Router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		n, err = count(conn, &nftables.Table{Name: plan.Table, Family: nftables.TableFamilyINet})
		return err
	})
	return n, err
}

func countRules(conn *nftables.Conn, table *nftables.Table) (int, error) {
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	n := 0
	for _, c := range chains {
		if c.Table.Name != table.Name {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return 0, err
		}
		n += len(rules)
	}
	return n, err
}

// countElements counts in the sets of cut peers, or in all others.
func countElements(cut bool) func(*nftables.Conn, *nftables.Table) (int, error) {
	return func(conn *nftables.Conn, table *nftables.Table) (int, error) {
		sets, err := conn.GetSets(table)
		n := 0
		for _, s := range sets {
			if slices.Contains([]string{"cut4", "cut6"}, s.Name) != cut || s.Name == "settling" {
				continue
			}
			elements, err := conn.GetSetElements(s)
			if err != nil {
				return 0, err
			}
			n += len(elements)
		}
		return n, err
	}
}

func (b *Bench) rules() (int, error) {
	n := 0
	for _, family := range []string{"-4", "-6"} {
		out, err := b.Lab.Router.Run(b.ctx, "ip", family, "rule")
		if err != nil {
			return 0, err
		}
		n += strings.Count(out, "\n")
	}
	return n, nil
}

func (b *Bench) tracked() (int, error) {
	n := 0
	err := b.Lab.Router.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return n, err
}

// loaded counts programs by their names.
func loaded() (int, error) {
	n := 0
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		id = next
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it has gone
		}
		if info, err := program.Info(); err == nil && strings.HasPrefix(info.Name, "torbpf") {
			n++
		}
		program.Close()
	}
}
