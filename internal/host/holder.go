package host

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is a listening socket's state in /proc/net/tcp.
const tcpListen = "0A"

// findHolder looks a bound socket up in /proc/net and its inode among the open
// files of all processes. It only explains a refusal, so whatever it cannot
// read it leaves out.
func findHolder(protocol string, port uint16) Conflict {
	found := Conflict{Protocol: protocol, Port: port}
	for _, table := range []string{protocol, protocol + "6"} {
		f, err := os.Open(filepath.Join("/proc/thread-self/net", table))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() && found.PID == 0 {
			local, state, inode := parseSocket(lines.Text())
			if local.Port() != port || protocol == "tcp" && state != tcpListen {
				continue
			}
			found.Addr = local.Addr()
			found.PID, found.Process = processWithSocket(inode)
		}
		f.Close()
		if found.PID != 0 {
			break
		}
	}
	return found
}

// parseSocket reads a line of /proc/net/{tcp,udp}{,6}; of the heading and of
// anything else it gives zero values.
func parseSocket(line string) (local netip.AddrPort, state, inode string) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return netip.AddrPort{}, "", ""
	}
	host, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, "", ""
	}
	// The kernel prints network order words as numbers of its own order.
	for word := raw; len(word) > 0; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, "", ""
	}
	return netip.AddrPortFrom(addr, uint16(number)), fields[3], fields[9]
}

// processWithSocket returns the first process that has the socket open.
func processWithSocket(inode string) (pid int, name string) {
	eachSocket(func(open string, by int) bool {
		if open == inode {
			pid, name = by, processName(by)
		}
		return name == ""
	})
	return pid, name
}

// eachSocket names the sockets of all processes by their inodes, until visit has seen enough.
func eachSocket(visit func(inode string, pid int) bool) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // it ended meanwhile, or is not ours to look at
		}
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		if !isSocket {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(fd))))
		if err == nil && !visit(strings.TrimSuffix(inode, "]"), pid) {
			return
		}
	}
}

// processName is what the kernel calls a process; "" for one that has ended.
func processName(pid int) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}
