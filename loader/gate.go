package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// Gates opens the pinned map through which the sentry opens and closes Tor to new
// connections. The caller closes it.
func (d *Datapath) Gates() (*ebpf.Map, error) { return d.openMap(abi.DatapathMapGates) }

// GatesOpen tells of the first so many tors whether the sentry lets new connections go to them.
func (d *Datapath) GatesOpen(tors int) ([]bool, error) {
	m, err := d.Gates()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	open := make([]bool, tors)
	for i := range open {
		var gate abi.DatapathGate
		if err := m.Lookup(uint32(i), &gate); err != nil {
			return nil, fmt.Errorf("read gate %d: %w", i, err)
		}
		open[i] = gate.Open != 0
	}
	return open, nil
}

// HoldShut closes Tor to new connections, for good once the sentry is gone, and keeps what
// refuses those of this machine at work while all else is removed, until release is called or
// this process ends.
func (d *Datapath) HoldShut() (release func() error, err error) {
	release = func() error { return nil }
	guard, err := openLink(d.linkPin(GuardDNS))
	if guard == nil || err != nil {
		return release, err // there is nothing, or no more
	}
	defer guard.Close()
	if err := d.shut(); err != nil {
		return release, err
	}
	again, err := attachAgain(guard)
	if err != nil {
		return release, fmt.Errorf("keep the gate shut: %w", err)
	}
	return again.Close, nil
}

// shut closes every gate.
func (d *Datapath) shut() error {
	m, err := d.Gates()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer m.Close()
	for instance := range m.MaxEntries() {
		if err := m.Put(instance, abi.DatapathGate{}); err != nil {
			return fmt.Errorf("shut gate %d: %w", instance, err)
		}
	}
	return nil
}

// attachAgain attaches the program of a link to our network namespace once more. Of several
// that are attached each may refuse.
func attachAgain(l link.Link) (link.Link, error) {
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("inspect link: %w", err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return nil, fmt.Errorf("open program: %w", err)
	}
	defer program.Close()
	namespace, err := openNamespace()
	if err != nil {
		return nil, err
	}
	defer unix.Close(namespace)
	return link.AttachNetNs(namespace, program)
}
