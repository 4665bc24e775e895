package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const dnsPin = "dns"

// attachDNS attaches the guard of local delivery to our network namespace, or
// exchanges the program under the link that is there.
func (g *Generation) attachDNS() error {
	program := g.collection.Programs[programDNS]
	if program == nil {
		program = g.collection.Programs[programDNSSrc]
	}
	pin := g.datapath.linkPin(dnsPin)
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer old.Close()
		if err := old.Update(program); err != nil {
			return fmt.Errorf("update DNS guard: %w", err)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open DNS guard: %w", err)
	}
	return attachDNSTo(program, pin)
}

func attachDNSTo(program *ebpf.Program, pin string) error {
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(namespace)
	l, err := link.AttachNetNs(namespace, program)
	if err != nil {
		return fmt.Errorf("attach DNS guard: %w", err)
	}
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pin DNS guard: %w", err)
	}
	return nil
}

func (d *Datapath) detachDNS() error { return removeLink(d.linkPin(dnsPin)) }
