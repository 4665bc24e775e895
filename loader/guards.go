package loader

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// Missing names the guards of local delivery that are not attached to this
// network namespace, and the programs of client mode if the plan has it. Those that this kernel cannot have are among them; see
// Generation.Unsupported.
func (d *Datapath) Missing(p *plan.Plan) ([]string, error) {
	var missing []string
	here, err := d.dnsGuarded()
	if err != nil {
		return nil, err
	}
	if !here {
		missing = append(missing, GuardDNS)
	}
	for _, n := range netfilterGuards {
		if !n.of(p) {
			continue
		}
		for _, pin := range slices.Sorted(maps.Keys(n.pins)) {
			l, err := openLink(d.linkPin(pin))
			if err != nil {
				return nil, err
			}
			if l == nil {
				missing = append(missing, pin)
				continue
			}
			l.Close()
		}
	}
	if p.Client == nil {
		return missing, nil
	}
	absent, err := d.missingClient(p)
	return append(missing, absent...), err
}

// UnknownLANs names the LANs of a plan that the programs do not take for such, since
// somebody has emptied their map: they refuse whatever it is from there.
func (d *Datapath) UnknownLANs(p *plan.Plan) ([]string, error) {
	m, err := d.openMap(abi.DatapathMapLans)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return unknownLANs(m, p)
}

// dnsGuarded tells whether the DNS guard is attached to our network namespace.
func (d *Datapath) dnsGuarded() (bool, error) {
	l, err := openLink(d.linkPin(GuardDNS))
	if err != nil || l == nil {
		return false, err
	}
	defer l.Close()
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(namespace)
	return attachedTo(l, namespace)
}
