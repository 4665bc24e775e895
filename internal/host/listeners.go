package host

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Listener is a socket that takes what others send first.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Addr     netip.AddrPort
	PID      int // 0 where that could not be found out, such as without root
	Process  string
}

// udpUnconnected is the state of a UDP socket in /proc/net/udp that anybody may send to.
const udpUnconnected = "07"

// Listeners returns them, of this network namespace. One that both families reach is listed by
// its IPv6 address.
func Listeners() ([]Listener, error) {
	var out []Listener
	inodes := make(map[string][]int) // places in out
	for _, t := range []struct{ table, state string }{{"tcp", tcpListen}, {"tcp6", tcpListen}, {"udp", udpUnconnected}, {"udp6", udpUnconnected}} {
		err := eachLine(t.table, func(line string) {
			local, state, inode := parseSocket(line)
			if !local.IsValid() || state != t.state || local.Port() == 0 {
				return
			}
			inodes[inode] = append(inodes[inode], len(out))
			addr := netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
			out = append(out, Listener{Protocol: strings.TrimSuffix(t.table, "6"), Addr: addr})
		})
		if err != nil {
			return nil, err
		}
	}
	eachSocket(func(inode string, pid int) bool {
		for _, i := range inodes[inode] {
			if out[i].PID == 0 {
				out[i].PID, out[i].Process = pid, processName(pid)
			}
		}
		return true
	})
	return out, nil
}

// eachLine reads a table of /proc/net; without IPv6 those of it are not there.
func eachLine(table string, visit func(string)) error {
	f, err := os.Open(filepath.Join("/proc/thread-self/net", table))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		visit(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	return nil
}
