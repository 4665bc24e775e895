package host

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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
	f, err := os.Open(filepath.Join("/proc/thread-self/net", table))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no IPv6
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer f.Close()
	var addrs []netip.Addr
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if local, _, _ := parseSocket(lines.Text()); local.IsValid() && local.Port() == port {
			addrs = append(addrs, local.Addr())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return addrs, nil
}
