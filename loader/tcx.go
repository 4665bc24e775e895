package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachTCX puts program at the head of a hook's tcx programs. A link that is
// there already and still first is updated in place, atomically. One that
// somebody has attached ahead of could be skipped: a new link is put in front
// before the old one goes.
func (d *Datapath) attachTCX(h hook, program *ebpf.Program) error {
	attach := ebpf.AttachTCXIngress
	if h.egress {
		attach = ebpf.AttachTCXEgress
	}
	pin := d.linkPin(h.pin())
	old, err := link.LoadPinnedLink(pin, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open pinned link: %w", err)
	}
	if old != nil {
		defer old.Close()
		if isFirst(old, h.ifindex, attach) {
			return old.Update(program)
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: h.ifindex, Program: program, Attach: attach, Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	defer l.Close()
	return replacePin(pin, d.linkPin("new-"+h.pin()), l.Pin)
}

// isFirst tells whether a link is alive on that interface and heads its chain.
func isFirst(l link.Link, ifindex int, attach ebpf.AttachType) bool {
	info, err := l.Info()
	if err != nil || info.TCX() == nil || info.TCX().Ifindex != uint32(ifindex) {
		return false
	}
	chain, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: attach})
	if err != nil || len(chain.Programs) == 0 {
		return false
	}
	return chain.Programs[0].ID == info.Program
}

// detachTCX removes a hook's link, if there is one.
func (d *Datapath) detachTCX(h hook) error {
	return removeLink(d.linkPin(h.pin()))
}

// removeLink detaches a pinned link: the pin is its last reference.
func removeLink(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned link: %w", err)
	}
	defer l.Close()
	if err := l.Unpin(); err != nil {
		return fmt.Errorf("unpin link: %w", err)
	}
	return nil
}
