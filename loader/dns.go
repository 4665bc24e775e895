package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// GuardDNS names the DNS guard among what Missing returns, and its pin.
const GuardDNS = "dns"

// attachDNS attaches the guard of local delivery to our network namespace, or
// exchanges the program under the link that is there. A link to a namespace
// that is gone, whose name ours has inherited, is replaced.
func (g *Generation) attachDNS() error {
	program := g.collection.Programs[programDNS]
	if program == nil {
		program = g.collection.Programs[programDNSSrc]
	}
	if err := attachDNSTo(g.datapath.linkPin(GuardDNS), program); err != nil {
		return fmt.Errorf("attach %s to network namespace: %w", program, err)
	}
	return nil
}

func attachDNSTo(pin string, program *ebpf.Program) error {
	namespace, err := openNamespace()
	if err != nil {
		return err
	}
	defer unix.Close(namespace)
	old, err := openLink(pin)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		here, err := attachedTo(old, namespace)
		if err != nil {
			return err
		}
		if here {
			return old.Update(program)
		}
	}
	l, err := link.AttachNetNs(namespace, program)
	if err != nil {
		return err
	}
	defer l.Close()
	return exchangeLink(pin, l, old)
}

// openNamespace opens the network namespace of the calling thread.
func openNamespace() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace: %w", err)
	}
	return fd, nil
}

// attachedTo tells whether a link is to the network namespace that fd is.
func attachedTo(l link.Link, fd int) (bool, error) {
	var namespace unix.Stat_t
	if err := unix.Fstat(fd, &namespace); err != nil {
		return false, fmt.Errorf("inspect network namespace: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link: %w", err)
	}
	return info.NetNs() != nil && uint64(info.NetNs().NetnsInode) == namespace.Ino, nil
}
