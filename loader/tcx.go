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
		first, err := d.heads(h)
		if err != nil {
			return err
		}
		if first {
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

// heads tells whether the pinned link of a hook is alive with none ahead.
func (d *Datapath) heads(h hook) (bool, error) {
	id, err := d.attached(h)
	if err != nil || id == 0 {
		return false, err
	}
	ahead, err := tcxAhead(h, id)
	return ahead == 0, err
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
