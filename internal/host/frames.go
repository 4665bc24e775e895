package host

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The family "netdev" of generic netlink, as far as it is asked (linux/netdev.h, Linux 6.3).
const (
	netdevGet         = 1
	netdevIfindex     = 1
	netdevXDPFeatures = 3
	netdevSendsFrames = 1 << 2
)

// genericHeader is struct genlmsghdr: command, version, and two bytes that the kernel wants to
// be zero, which those of nl.Genlmsg are not always.
type genericHeader [4]byte

func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }

// SendsFrames tells whether an interface takes frames that an XDP program sends there. A kernel
// before 6.3 does not say so; a driver may change its mind, as veth does with its far end.
func SendsFrames(index int) (bool, error) {
	family, err := netlink.GenlFamilyGet("netdev")
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find family netdev of netlink: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genericHeader{netdevGet, 1})
	req.AddData(nl.NewRtAttr(netdevIfindex, binary.NativeEndian.AppendUint32(nil, uint32(index))))
	messages, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for features of interface %d: %w", index, err)
	}
	for _, m := range messages {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return false, fmt.Errorf("parse features of interface %d: %w", index, err)
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevXDPFeatures && len(a.Value) >= 8 {
				return binary.NativeEndian.Uint64(a.Value)&netdevSendsFrames != 0, nil
			}
		}
	}
	return false, nil
}
