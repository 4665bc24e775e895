package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h and a status bit of
// nf_conntrack_common.h that package nl lacks.
const (
	ctaMarkMask  = 21
	ipsDNATApply = 1 << 5 // the destination was rewritten
)

// conntrackCount exists in every namespace once conntrack is loaded.
const conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// conntrackNetlink is what the kernel needs for all that follows.
const conntrackNetlink = "conntrack over netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink)"

// entry is a conntrack entry: what plans see of it, and what names it to the
// kernel, kept as the kernel wrote it. Thus an entry of any protocol and of any
// zone can be changed without its keys being understood here.
type entry struct {
	plan.Flow
	family uint8
	tuple  []byte // CTA_TUPLE_ORIG
	zone   []byte // CTA_ZONE, nil in the default zone
}

// Flows lists what conntrack knows in this namespace, of both families and all
// zones. Where conntrack is not loaded there are no flows: the list is empty, and
// listing does not load it.
func Flows() ([]plan.Flow, error) {
	var flows []plan.Flow
	err := withConntrack(func(ct *conntrack) error {
		return ct.each(func(e *entry) { flows = append(flows, e.Flow) })
	})
	if err != nil {
		return nil, err
	}
	return flows, nil
}

// conntrack is a netlink socket to conntrack. One socket serves thousands of
// requests; the netlink package would open one for each.
type conntrack struct {
	sockets map[int]*nl.SocketHandle
}

// withConntrack runs fn with a socket in the namespace of the calling thread,
// unless conntrack is not loaded: then nothing is tracked and fn is not called.
func withConntrack(fn func(*conntrack) error) error {
	if _, err := os.Stat(conntrackCount); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", kernel.Explain(err, conntrackNetlink))
	}
	defer socket.Close()
	// The kernel answers at once or not at all; no answer must not hang attach.
	if err := errors.Join(socket.SetSendTimeout(&nl.SocketTimeoutTv), socket.SetReceiveTimeout(&nl.SocketTimeoutTv)); err != nil {
		return fmt.Errorf("set conntrack timeout: %w", err)
	}
	return fn(&conntrack{sockets: map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}})
}

// request prepares a message of the conntrack subsystem; family 0 means all.
func (ct *conntrack) request(operation, flags int, family uint8) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	req.Sockets = ct.sockets
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

// each lists all entries once. An entry stays valid after its call.
func (ct *conntrack) each(fn func(*entry)) error {
	var parseErr error
	err := ct.request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, unix.AF_UNSPEC).
		ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
			var e entry
			if e, parseErr = parseEntry(m); parseErr == nil {
				fn(&e)
			}
			return parseErr == nil
		})
	if err != nil {
		// The question has nothing that could be invalid but its subsystem.
		return fmt.Errorf("list conntrack entries: %w", kernel.Explain(err, conntrackNetlink, unix.EINVAL))
	}
	if parseErr != nil {
		return fmt.Errorf("parse conntrack entry: %w", parseErr)
	}
	return nil
}

// parseEntry reads a conntrack message.
func parseEntry(m []byte) (entry, error) {
	if len(m) < nl.SizeofNfgenmsg {
		return entry{}, errors.New("message is too short")
	}
	e := entry{family: m[0]}
	var reply []byte
	for kind, value := range attributes(m[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = value
		case nl.CTA_TUPLE_REPLY:
			reply = value
		case nl.CTA_ZONE:
			e.zone = value
		case nl.CTA_MARK:
			e.Mark = binary.BigEndian.Uint32(value)
		case nl.CTA_STATUS:
			e.DNAT = binary.BigEndian.Uint32(value)&ipsDNATApply != 0
		}
	}
	var err error
	if e.Protocol, e.Src, e.Dst, err = parseTuple(e.tuple); err != nil {
		return entry{}, err
	}
	if _, e.ReplySrc, e.ReplyDst, err = parseTuple(reply); err != nil {
		return entry{}, err
	}
	return e, nil
}

// parseTuple reads one direction. Protocols without ports have port 0, so for
// instance two pings between the same hosts look alike.
func parseTuple(b []byte) (protocol uint8, src, dst netip.AddrPort, err error) {
	var srcAddr, dstAddr netip.Addr
	var srcPort, dstPort uint16
	for kind, part := range attributes(b) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			for kind, value := range attributes(part) {
				addr, _ := netip.AddrFromSlice(value)
				switch kind {
				case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
					srcAddr = addr
				case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
					dstAddr = addr
				}
			}
		case nl.CTA_TUPLE_PROTO:
			for kind, value := range attributes(part) {
				switch kind {
				case nl.CTA_PROTO_NUM:
					protocol = value[0]
				case nl.CTA_PROTO_SRC_PORT:
					srcPort = binary.BigEndian.Uint16(value)
				case nl.CTA_PROTO_DST_PORT:
					dstPort = binary.BigEndian.Uint16(value)
				}
			}
		}
	}
	if !srcAddr.IsValid() || !dstAddr.IsValid() {
		return 0, netip.AddrPort{}, netip.AddrPort{}, errors.New("no addresses")
	}
	return protocol, netip.AddrPortFrom(srcAddr, srcPort), netip.AddrPortFrom(dstAddr, dstPort), nil
}

// attributes walks netlink attributes without copying them; the flags in a type
// are removed.
func attributes(b []byte) iter.Seq2[int, []byte] {
	const header, flags = 4, nl.NLA_F_NESTED | nl.NLA_F_NET_BYTEORDER
	return func(yield func(int, []byte) bool) {
		for len(b) >= header {
			length := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ flags
			if length < header || length > len(b) {
				return
			}
			if !yield(int(kind), b[header:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}
