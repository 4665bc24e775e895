package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

const programEarly = abi.DatapathProgTorbpfEarly

// The kinds of a LAN's XDP program (bpf/early.h), by how it is attached.
const (
	KindEarlyNative  = "early_drv" // by the driver
	KindEarlyGeneric = "early_skb" // by the kernel, behind the driver
)

var earlyModes = []struct {
	kind  string
	mode  plan.Early
	flags link.XDPAttachFlags
}{
	{KindEarlyNative, plan.EarlyNative, link.XDPDriverMode},
	{KindEarlyGeneric, plan.EarlyGeneric, link.XDPGenericMode},
}

// errNoXDP is of what an interface, or this kernel, does not have.
var errNoXDP = errors.New("no XDP")

// attachEarly puts the XDP programs in place, before the LAN programs, which believe those of
// their own generation alone. Where one cannot be had the LAN program does all of it: that is
// no error but a reason, see NoEarly.
func (g *Generation) attachEarly() error {
	g.noEarly = make(map[int]string)
	for _, l := range g.plan.LANs {
		for _, m := range earlyModes { // an interface has one of them at a time
			if !wantsEarly(l, m.mode) {
				if err := removeLink(g.datapath.linkPin(newHook(m.kind, l.Index).pin())); err != nil {
					return err
				}
			}
		}
		for _, m := range earlyModes {
			if !wantsEarly(l, m.mode) {
				continue
			}
			h := newHook(m.kind, l.Index)
			switch err := g.attachXDP(h, g.earlyProgram(m.mode), m.flags); {
			case errors.Is(err, errNoXDP):
				g.noEarly[l.Index] = err.Error()
			case err != nil:
				return fmt.Errorf("attach %s to %s: %w", programEarly, l.Name, err)
			default:
				g.early = append(g.early, h)
			}
		}
	}
	return nil
}

func wantsEarly(l plan.LAN, mode plan.Early) bool { return l.Ethernet && l.Early == mode }

// earlyProgram is the one for a mode; with a fast path it does more, in the driver.
func (g *Generation) earlyProgram(mode plan.Early) string {
	if mode == plan.EarlyNative && g.collection.Programs[programEarlyFast] != nil {
		return programEarlyFast
	}
	return programEarly
}

// attachXDP attaches the program, or exchanges the one under the link that is there.
func (g *Generation) attachXDP(h hook, name string, flags link.XDPAttachFlags) error {
	pin := g.datapath.linkPin(h.pin())
	old, err := openLink(pin)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		info, err := old.Info()
		if err != nil {
			return fmt.Errorf("inspect link: %w", err)
		}
		if xdp := info.XDP(); xdp != nil && xdp.Ifindex == uint32(h.ifindex) {
			return old.Update(g.collection.Programs[name])
		}
	}
	fresh, err := link.AttachXDP(link.XDPOptions{Interface: h.ifindex, Program: g.collection.Programs[name], Flags: flags})
	if err != nil {
		return explainXDP(err)
	}
	defer fresh.Close()
	return replacePin(pin, fresh.Pin)
}

// explainXDP tells what an interface lacks from what fails.
func explainXDP(err error) error {
	for errno, why := range map[unix.Errno]string{
		unix.EBUSY:      "another XDP program is there",
		unix.EEXIST:     "another XDP program is there",
		unix.EOPNOTSUPP: "the driver has none",
		unix.ERANGE:     "the driver has none for an MTU as large as this",
		unix.EINVAL:     "the driver has none for this MTU or these offloads, or the kernel is older than Linux 5.9",
		unix.ENOMEM:     "the driver has no queues left for it",
		unix.ENOSPC:     "the driver has no queues left for it",
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %s (%w)", errNoXDP, why, err)
		}
	}
	if errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errNoXDP, err)
	}
	return err
}

// NoEarly says why there is no XDP program at a LAN that should have one, by interface.
func (g *Generation) NoEarly() map[int]string { return g.noEarly }

// Early tells how a LAN's XDP program is attached now.
func (d *Datapath) Early(ifindex int) (plan.Early, error) {
	for _, m := range earlyModes {
		there, err := d.hasXDP(newHook(m.kind, ifindex))
		if err != nil {
			return plan.EarlyOff, err
		}
		if there {
			return m.mode, nil
		}
	}
	return plan.EarlyOff, nil
}

// hasXDP tells whether the link that is pinned for a hook is alive.
func (d *Datapath) hasXDP(h hook) (bool, error) {
	l, err := openLink(d.linkPin(h.pin()))
	if err != nil || l == nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link of XDP: %w", err)
	}
	xdp := info.XDP()
	return xdp != nil && xdp.Ifindex == uint32(h.ifindex), nil
}
