package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Connection is one of TCP as the kernel has it, whether a process still has a descriptor of it or
// none: what was closed has none while something of it is left to send, nor has what nobody has
// accepted yet.
type Connection struct {
	Local, Remote netip.AddrPort
	Mark          uint32
	Opening       bool // it was asked for here, and its other end has not answered yet
}

// States of TCP (net/tcp_states.h) that a dump leaves out: those without another end.
const (
	tcpClose  = 7
	tcpListen = 10
)

// tcpSynRecv is the state in which a dump shows what is being opened.
const tcpSynRecv = 3

// Offsets in a struct inet_diag_msg of linux/inet_diag.h, which is followed by attributes.
const (
	diagState      = 1
	diagLocalPort  = 4
	diagRemotePort = 6
	diagLocal      = 8
	diagRemote     = 24
	diagLen        = 72
)

// diagMark is INET_DIAG_MARK, an attribute (Linux 4.9).
const diagMark = 15

// Connections returns those in the calling thread's network namespace (SOCK_DIAG_BY_FAMILY). Without
// CAP_NET_ADMIN their marks are 0.
func Connections() ([]Connection, error) {
	var out []Connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(diagDump{family})
		messages, err := req.Execute(unix.NETLINK_INET_DIAG, unix.SOCK_DIAG_BY_FAMILY)
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for _, m := range messages {
			c, err := parseConnection(m)
			if err != nil {
				return nil, fmt.Errorf("list connections: %w", err)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func parseConnection(m []byte) (Connection, error) {
	if len(m) < diagLen {
		return Connection{}, fmt.Errorf("a message of %d bytes is too short", len(m))
	}
	addr := func(at int) netip.Addr {
		if m[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(m[at:]))
		}
		return netip.AddrFrom16([16]byte(m[at:])).Unmap()
	}
	c := Connection{
		Opening: m[diagState] == tcpSynRecv,
		Local:   netip.AddrPortFrom(addr(diagLocal), binary.BigEndian.Uint16(m[diagLocalPort:])),
		Remote:  netip.AddrPortFrom(addr(diagRemote), binary.BigEndian.Uint16(m[diagRemotePort:])),
	}
	attributes, err := nl.ParseRouteAttr(m[diagLen:])
	if err != nil {
		return Connection{}, err
	}
	for _, a := range attributes {
		if a.Attr.Type == diagMark && len(a.Value) == 4 {
			c.Mark = nl.NativeEndian().Uint32(a.Value)
		}
	}
	return c, nil
}

// diagDump is a struct inet_diag_req_v2 for all connections of a family.
type diagDump struct{ family uint8 }

// Len is that of the struct.
func (diagDump) Len() int { return diagRequest{}.Len() }

// Serialize lays it out as the kernel reads it.
func (d diagDump) Serialize() []byte {
	b := make([]byte, d.Len())
	b[0], b[1] = d.family, unix.IPPROTO_TCP
	nl.NativeEndian().PutUint32(b[4:], ^uint32(1<<tcpListen|1<<tcpClose))
	return b
}
