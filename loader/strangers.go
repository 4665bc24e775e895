package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Strangers names, in words, the programs and filters of others that see packets of an
// interface; one that is gone has none.
func (d *Datapath) Strangers(ifindex int) ([]string, error) {
	l, err := netlink.LinkByIndex(ifindex)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %d: %w", ifindex, err)
	}
	ours, err := d.programIDs()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, direction := range []struct {
		name   string
		attach ebpf.AttachType
		parent uint32
	}{
		{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
		{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	} {
		theirs, err := strangersAt(ifindex, direction.attach, ours)
		if err != nil {
			return nil, fmt.Errorf("list tcx programs at %s of %s: %w", direction.name, l.Attrs().Name, err)
		}
		if theirs {
			out = append(out, "a tcx program at "+direction.name)
		}
		filters, err := filtersAt(l, direction.parent)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(filters, func(f netlink.Filter) bool { return !isOurs(f) }) {
			out = append(out, "a tc filter at "+direction.name)
		}
	}
	if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached && !slices.Contains(ours, ebpf.ProgramID(xdp.ProgId)) {
		out = append(out, "an XDP program")
	}
	return out, nil
}

func strangersAt(ifindex int, attach ebpf.AttachType, ours []ebpf.ProgramID) (bool, error) {
	chain, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: attach})
	if errors.Is(err, unix.EINVAL) {
		return false, nil // a kernel without tcx
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(chain.Programs, func(p link.AttachedProgram) bool { return !slices.Contains(ours, p.ID) }), nil
}

// programIDs are those of the programs under our links.
func (d *Datapath) programIDs() ([]ebpf.ProgramID, error) {
	hooks, _, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	var ids []ebpf.ProgramID
	for _, h := range hooks {
		l, err := openLink(d.linkPin(h.pin()))
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		info, err := l.Info()
		l.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("inspect link of %s: %w", h, err)
		}
		if err == nil {
			ids = append(ids, info.Program)
		}
	}
	return ids, nil
}
