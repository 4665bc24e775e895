package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachTCX puts program at the head of a hook's tcx programs. A link that is
// there already and still first is updated in place, atomically. Behind one
// that somebody has attached ahead of it a program may be skipped: then a new
// link is put in front before the old one goes.
func (d *Datapath) attachTCX(h hook, program *ebpf.Program) error {
	pin := d.linkPin(h.pin())
	old, err := openLink(pin)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		if heads(old, h) {
			return old.Update(program)
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: h.ifindex, Program: program, Attach: h.attachType(), Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	defer l.Close()
	return exchangeLink(pin, l, old)
}

func (h hook) attachType() ebpf.AttachType {
	if h.egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// heads tells whether a link is alive at a hook with no tcx program ahead.
func heads(l link.Link, h hook) bool {
	info, err := l.Info()
	if err != nil || info.TCX() == nil || info.TCX().Ifindex != uint32(h.ifindex) {
		return false
	}
	chain, err := link.QueryPrograms(link.QueryOptions{Target: h.ifindex, Attach: h.attachType()})
	if err != nil || len(chain.Programs) == 0 {
		return false
	}
	return chain.Programs[0].ID == info.Program
}

// alive tells whether a pinned link is still attached to an interface: one
// that is gone, with another at its index perhaps, leaves a dead link.
func (d *Datapath) alive(h hook) (bool, error) {
	l, err := openLink(d.linkPin(h.pin()))
	if err != nil || l == nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link of %s: %w", h, err)
	}
	return info.TCX() != nil && info.TCX().Ifindex == uint32(h.ifindex), nil
}

// openLink opens a pinned link, nil if there is none.
func openLink(pin string) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	return l, nil
}

// exchangeLink pins a link in place of an old one, which is nil if there was
// none, and only then detaches the old one.
func exchangeLink(pin string, l, old link.Link) error {
	if err := replacePin(pin, l.Pin); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	if old == nil {
		return nil
	}
	return old.Detach()
}

// removeLink detaches a pinned link, if there is one. Unpinning alone would
// leave it to the kernel when to do so.
func removeLink(pin string) error {
	l, err := openLink(pin)
	if err != nil || l == nil {
		return err
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		return fmt.Errorf("detach %s: %w", pin, err)
	}
	if err := l.Unpin(); err != nil {
		return fmt.Errorf("unpin link: %w", err)
	}
	return nil
}
