// Package host reads from the kernel what planning needs to know of the machine
// and changes the few settings of it that torbpf needs: forwarding.
//
//	rtnetlink  links, addresses, routes, rules ─┐
//	/proc/sys  bridge-nf-call-*                 ├─ Read ── plan.Host
//	/proc/sys  forwarding, accept_ra            ─ EnableForwarding ⇄ Restore
//	/proc/N/ns which namespace this is          ─ Namespace
//	/proc/net  a time server                    │
//	/sys/…/cpu how many CPUs are online         ┘
//	bind(2)    ports somebody else holds        ─ PortsInUse
//
// Everything is that of the network namespace of the calling thread: netlink
// sockets are opened by it, and both /proc/sys/net and /proc/thread-self/net show
// the namespace of the thread that looks. /sys/class/net is never read: it
// belongs to the namespace sysfs was mounted in, which under nsenter is another.
package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// Read returns the facts of the current network namespace. Nothing is left out
// silently: a subnet or an uplink that planning does not know of would be
// guarded by nobody, so whatever cannot be understood is an error.
func Read() (plan.Host, error) {
	links, bridgesFiltered, err := readLinks()
	if err != nil {
		return plan.Host{}, err
	}
	h := plan.Host{Links: links}
	if h.Addrs, err = readAddrs(); err != nil {
		return plan.Host{}, err
	}
	if h.Routes, err = readRoutes(); err != nil {
		return plan.Host{}, err
	}
	if h.Rules, err = readRules(); err != nil {
		return plan.Host{}, err
	}
	if h.BridgeNF, err = bridgeNF(bridgesFiltered); err != nil {
		return plan.Host{}, err
	}
	if h.TimeServer, err = timeServer(); err != nil {
		return plan.Host{}, err
	}
	if h.Ephemeral, err = ephemeral(); err != nil {
		return plan.Host{}, err
	}
	if h.CPUs, err = onlineCPUs(); err != nil {
		return plan.Host{}, err
	}
	return h, nil
}

// ephemeral reads where the kernel begins to take ports for who asks for none, of both
// families.
func ephemeral() (uint16, error) {
	const name = "net.ipv4.ip_local_port_range"
	value, err := Sysctl(name)
	if err != nil {
		return 0, err
	}
	var first uint16 // the last one follows
	if _, err := fmt.Sscan(value, &first); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return first, nil
}

// bridgeNF reports whether bridged packets traverse nftables: br_netfilter is
// loaded and switched on for all bridges of the namespace or for one of them.
func bridgeNF(bridgesFiltered bool) (bool, error) {
	for _, name := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		value, err := Sysctl(name)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil // without the module a bridge's own switch moves nothing
		}
		if err != nil {
			return false, err
		}
		if value != "0" {
			return true, nil
		}
	}
	return bridgesFiltered, nil
}

// dump lists all: a torn listing could lack the very route that makes an
// interface an uplink.
func dump[T any](what string, list func() (T, error)) (T, error) {
	result, err := kernel.Whole(list)
	if err != nil {
		return result, fmt.Errorf("list %s: %w", what, err)
	}
	return result, nil
}
