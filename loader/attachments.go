package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How a program is attached.
const (
	ByTCX    = "tcx"
	ByClsact = "clsact"
)

// Attachment is a hook with a program of ours.
type Attachment struct {
	Kind    string // KindLAN, KindOut or KindUplink
	Ifindex int
	By      string // ByTCX or ByClsact
	Ahead   int    // programs of somebody else that see a packet first, and could keep it from ours
}

// Attachments lists where programs are attached now, sorted by interface and
// kind. An error is one of reading the pins or of asking the kernel for links,
// filters or interfaces; then nothing is listed.
func (d *Datapath) Attachments() ([]Attachment, error) {
	links, _, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	var out []Attachment
	for _, h := range links {
		id, err := d.attached(h)
		if err != nil {
			return nil, err
		}
		if id == 0 {
			continue
		}
		ahead, err := tcxAhead(h, id)
		if err != nil {
			return nil, err
		}
		out = append(out, Attachment{Kind: h.kind, Ifindex: h.ifindex, By: ByTCX, Ahead: ahead})
	}
	filters, err := clsactHooks()
	if err != nil {
		return nil, err
	}
	for _, h := range filters {
		ahead, err := clsactAhead(h)
		if err != nil {
			return nil, err
		}
		out = append(out, Attachment{Kind: h.kind, Ifindex: h.ifindex, By: ByClsact, Ahead: ahead})
	}
	slices.SortFunc(out, func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.By, b.By))
	})
	return out, nil
}

// attached returns the program under the pinned link of a hook, 0 if the link
// is dead: its interface is gone, whatever has its index now.
func (d *Datapath) attached(h hook) (ebpf.ProgramID, error) {
	l, err := openLink(d.linkPin(h.pin()))
	if err != nil || l == nil {
		return 0, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("inspect link of %s: %w", h, err)
	}
	if info.TCX() == nil || info.TCX().Ifindex != uint32(h.ifindex) {
		return 0, nil
	}
	return info.Program, nil
}

// tcxAhead counts the tcx programs at a hook before ours, or all of them if
// ours is not a tcx program.
func tcxAhead(h hook, ours ebpf.ProgramID) (int, error) {
	chain, err := link.QueryPrograms(link.QueryOptions{Target: h.ifindex, Attach: h.attachType()})
	if errors.Is(err, unix.EINVAL) {
		return 0, nil // a kernel without tcx
	}
	if err != nil {
		return 0, fmt.Errorf("list tcx programs at %s: %w", h, err)
	}
	for i, p := range chain.Programs {
		if p.ID == ours {
			return i, nil
		}
	}
	return len(chain.Programs), nil
}

// clsactAhead counts the tcx programs at a hook, which all run before the
// filters, and the filters before ours.
func clsactAhead(h hook) (int, error) {
	ahead, err := tcxAhead(h, 0)
	if err != nil {
		return 0, err
	}
	l, err := netlink.LinkByIndex(h.ifindex)
	if err != nil {
		return 0, fmt.Errorf("find interface %d: %w", h.ifindex, err)
	}
	filters, err := filtersAt(l, h.parent())
	if err != nil {
		return 0, err
	}
	first := slices.IndexFunc(filters, isOurs)
	return ahead + max(first, 0), nil
}
