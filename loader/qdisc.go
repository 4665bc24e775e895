package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// addClsact adds the qdisc where missing. An empty directory among the pins
// remembers that it is ours, so that a user's own one stays at detach.
func (d *Datapath) addClsact(l netlink.Link) error {
	err := netlink.QdiscAdd(clsactOf(l))
	if errors.Is(err, unix.EEXIST) {
		return d.takeClsact(l)
	}
	if err != nil {
		return fmt.Errorf("add clsact qdisc: %w", err)
	}
	if err := os.MkdirAll(d.qdiscMark(l), 0o700); err != nil {
		return errors.Join(fmt.Errorf("remember clsact qdisc: %w", err), netlink.QdiscDel(clsactOf(l)))
	}
	return keepQueueLength(l)
}

// keepQueueLength puts back what adding a qdisc changes by the way: the kernel
// takes a queue of no length, usual for virtual interfaces, for a mistake.
func keepQueueLength(l netlink.Link) error {
	if l.Attrs().TxQLen != 0 {
		return nil
	}
	if err := netlink.LinkSetTxQLen(l, 0); err != nil {
		return fmt.Errorf("keep queue length of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// takeClsact makes sure that the qdisc that is there already is a clsact. The
// older kind has no egress: it would run an egress filter at ingress.
func (d *Datapath) takeClsact(l netlink.Link) error {
	name := l.Attrs().Name
	q, err := qdiscAtClsact(l)
	if err != nil {
		return err
	}
	if q == nil || q.Type() != "clsact" {
		return fmt.Errorf("use clsact qdisc: %s has an ingress qdisc, which knows no egress, in its place: "+
			"tc qdisc del dev %s ingress, tc qdisc add dev %s clsact, and add the filters again", name, name, name)
	}
	filters, err := linkFilters(l)
	if err != nil {
		return err
	}
	if len(ours(filters)) > 0 {
		return nil
	}
	// Without our filters in it, this is not the one we added: the interface
	// was made anew, or the qdisc was.
	if err := os.Remove(d.qdiscMark(l)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget clsact qdisc: %w", err)
	}
	return nil
}

// removeEmptyClsact removes the qdisc if we added it and nobody uses it.
func (d *Datapath) removeEmptyClsact(l netlink.Link) error {
	if _, err := os.Stat(d.qdiscMark(l)); errors.Is(err, os.ErrNotExist) {
		return nil // the user's own
	} else if err != nil {
		return fmt.Errorf("look for clsact qdisc: %w", err)
	}
	filters, err := linkFilters(l)
	if err != nil || len(filters) > 0 {
		return err
	}
	q, err := qdiscAtClsact(l)
	if err != nil {
		return err
	}
	if q != nil && q.Type() == "clsact" {
		if err := netlink.QdiscDel(q); err != nil {
			return fmt.Errorf("remove clsact qdisc of %s: %w", l.Attrs().Name, err)
		}
	}
	return os.Remove(d.qdiscMark(l))
}

func clsactOf(l netlink.Link) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
}

// qdiscAtClsact returns the clsact or ingress qdisc, which share a place.
func qdiscAtClsact(l netlink.Link) (netlink.Qdisc, error) {
	qdiscs, err := kernel.Whole(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent == netlink.HANDLE_CLSACT {
			return q, nil
		}
	}
	return nil, nil
}

func (d *Datapath) qdiscMark(l netlink.Link) string {
	return filepath.Join(d.dir, "qdiscs", strconv.Itoa(l.Attrs().Index))
}
