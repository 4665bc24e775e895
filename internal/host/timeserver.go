package host

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// timeServer tells whether anything here is bound to the NTP port on more than
// loopback: whoever only asks for the time uses a port of its own.
func timeServer() (bool, error) {
	for _, table := range []string{"udp", "udp6"} {
		bound, err := boundAddrs(table, config.PortNTP)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(bound, func(a netip.Addr) bool { return !a.Unmap().IsLoopback() }) {
			return true, nil
		}
	}
	return false, nil
}

// boundAddrs returns the addresses on which a table of /proc/net has a port.
func boundAddrs(table string, port uint16) ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := eachLine(table, func(line string) {
		if local, _, _ := parseSocket(line); local.IsValid() && local.Port() == port {
			addrs = append(addrs, local.Addr())
		}
	})
	return addrs, err
}
