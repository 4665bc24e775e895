package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// sockDestroy is SOCK_DESTROY of linux/sock_diag.h.
const sockDestroy = 21

// Destroy ends a TCP connection of this machine's, whoever has it, also one that was closed
// and has something left to send (SOCK_DESTROY, Linux 4.5). One that is gone is no error;
// nor is a kernel that cannot (without CONFIG_INET_DIAG_DESTROY): it is one layer less.
func Destroy(local, remote netip.AddrPort) error {
	req := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	req.AddData(diagRequest{local, remote})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("end the connection %v > %v: %w", local, remote, err)
}

// diagRequest is a struct inet_diag_req_v2 for one connection.
type diagRequest struct{ local, remote netip.AddrPort }

// Len is that of the struct.
func (r diagRequest) Len() int { return 56 }

// Serialize lays it out as the kernel reads it.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	local, remote := r.local.Addr().Unmap(), r.remote.Addr().Unmap()
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Is6() {
		b[0] = unix.AF_INET6
	}
	for i := 4; i < 8; i++ {
		b[i] = 0xff // in whatever state
	}
	binary.BigEndian.PutUint16(b[8:], r.local.Port())
	binary.BigEndian.PutUint16(b[10:], r.remote.Port())
	copy(b[12:28], local.AsSlice())
	copy(b[28:44], remote.AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}
