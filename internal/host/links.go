package host

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// readLinks lists the interfaces and reports whether a bridge among them has
// nf_call_iptables or nf_call_ip6tables of its own switched on. The messages are
// read here and not by netlink.LinkList, which tells neither that nor the
// kernel's own name of every kind.
func readLinks() ([]plan.Link, bool, error) {
	messages, err := dump("links", func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, false, err
	}
	links := make([]plan.Link, 0, len(messages))
	filtered := false
	for _, m := range messages {
		link, bridgeFiltered, err := parseLink(m)
		if err != nil {
			return nil, false, fmt.Errorf("parse link: %w", err)
		}
		links = append(links, link)
		filtered = filtered || bridgeFiltered
	}
	return links, filtered, nil
}

// parseLink reads one RTM_NEWLINK message.
func parseLink(m []byte) (link plan.Link, bridgeFiltered bool, err error) {
	header := nl.DeserializeIfInfomsg(m)
	link = plan.Link{
		Index:    int(header.Index),
		Loopback: header.Flags&unix.IFF_LOOPBACK != 0,
		Down:     header.Flags&unix.IFF_UP == 0 || header.Flags&unix.IFF_RUNNING == 0,
		Ethernet: header.Type == unix.ARPHRD_ETHER,
	}
	attrs, err := nl.ParseRouteAttr(m[header.Len():])
	if err != nil {
		return plan.Link{}, false, err
	}
	elsewhere := false
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFLA_IFNAME:
			link.Name = unix.ByteSliceToString(attr.Value)
		case unix.IFLA_ADDRESS:
			if link.Ethernet { // of a tunnel it is an IP address
				copy(link.MAC[:], attr.Value)
			}
		case unix.IFLA_MASTER:
			link.Master = int(binary.NativeEndian.Uint32(attr.Value))
		case unix.IFLA_LINK:
			link.Parent = int(binary.NativeEndian.Uint32(attr.Value))
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_LINKINFO:
			if link.Kind, bridgeFiltered, err = parseLinkInfo(attr.Value); err != nil {
				return plan.Link{}, false, err
			}
		}
	}
	if link.Kind == "" && !link.Loopback {
		link.Driver = driver(link.Name)
	}
	// For other kinds IFLA_LINK means something else (of a veth: its peer), and
	// an index of another namespace may be that of an unrelated interface here.
	if elsewhere || !hasParent(link.Kind) {
		link.Parent = 0
	}
	return link, bridgeFiltered, nil
}

// parseLinkInfo returns the kind of a link and, of a bridge, whether its packets
// are given to the IP hooks whatever the namespace's bridge-nf-call-* say.
func parseLinkInfo(b []byte) (kind string, bridgeFiltered bool, err error) {
	infos, err := nl.ParseRouteAttr(b)
	if err != nil {
		return "", false, err
	}
	for _, info := range infos {
		switch {
		case info.Attr.Type == unix.IFLA_INFO_KIND:
			kind = unix.ByteSliceToString(info.Value)
		case info.Attr.Type == unix.IFLA_INFO_DATA && kind == "bridge": // the kind comes first
			options, err := nl.ParseRouteAttr(info.Value)
			if err != nil {
				return "", false, err
			}
			for _, o := range options {
				callsIP := o.Attr.Type == unix.IFLA_BR_NF_CALL_IPTABLES || o.Attr.Type == unix.IFLA_BR_NF_CALL_IP6TABLES
				bridgeFiltered = bridgeFiltered || callsIP && len(o.Value) > 0 && o.Value[0] != 0
			}
		}
	}
	return kind, bridgeFiltered, nil
}

// hasParent reports whether interfaces of this kind take their packets from
// another one, named by IFLA_LINK.
func hasParent(kind string) bool {
	switch kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		return true
	}
	return false
}

// driver names that of an interface as ethtool -i does; "" where it says none.
func driver(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}
