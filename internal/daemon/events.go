package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// events is a netlink socket on which the kernel announces that something has
// changed. What it was is not read: Mend compares everything anyway, and a
// message that was lost would be one more thing to know.
type events struct {
	name   string
	socket *nl.NetlinkSocket
}

// subscribe opens the sockets: from then on no change is missed.
func subscribe() ([]events, error) {
	const nftables = 7 // NFNLGRP_NFTABLES, include/uapi/linux/netfilter/nfnetlink.h
	var out []events
	for _, s := range []struct {
		name   string
		family int
		groups []uint
	}{
		{"rtnetlink", unix.NETLINK_ROUTE, []uint{
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
			unix.RTNLGRP_TC,
		}},
		{"nftables", unix.NETLINK_NETFILTER, []uint{nftables}},
	} {
		socket, err := nl.Subscribe(s.family, s.groups...)
		if err != nil {
			return nil, fmt.Errorf("subscribe to the events of %s: %w", s.name, err)
		}
		out = append(out, events{s.name, socket})
	}
	return out, nil
}

// watch calls changed for whatever comes, until ctx ends.
func (e events) watch(ctx context.Context, changed func()) error {
	defer context.AfterFunc(ctx, e.socket.Close)()
	for {
		_, _, err := e.socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			changed() // ENOBUFS: more came than there was room for
		default:
			return fmt.Errorf("read the events of %s: %w", e.name, err)
		}
	}
}
