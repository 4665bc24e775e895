package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// Settings of conntrack that bear upon the fast path. Neither is there before conntrack is.
const (
	conntrackCounts  = "net.netfilter.nf_conntrack_acct"
	ConntrackLiberal = "net.netfilter.nf_conntrack_tcp_be_liberal"
)

// ReadFast returns what may be in the way of the fast path, but for what nftables and other
// people's programs are.
func ReadFast() (plan.FastHost, error) {
	h := plan.FastHost{}
	var err error
	if h.Links, h.BridgeNF, err = readBridgedLinks(); err != nil {
		return h, err
	}
	if h.Rules, err = readRules(); err != nil {
		return h, err
	}
	if h.Qdiscs, err = readQdiscs(); err != nil {
		return h, err
	}
	if h.IPsec, err = ipsec(); err != nil {
		return h, err
	}
	v4, v6, err := ForwardingEnabled()
	if err != nil {
		return h, err
	}
	h.Forwards = v4 || v6
	if h.Accounting, err = isSetTo(conntrackCounts, "1"); err != nil {
		return h, err
	}
	h.Strict, err = isSetTo(ConntrackLiberal, "0")
	return h, err
}

func readBridgedLinks() ([]plan.Link, bool, error) {
	links, filtered, err := readLinks()
	if err != nil {
		return nil, false, err
	}
	bridged, err := bridgeNF(filtered)
	return links, bridged, err
}

func isSetTo(name, value string) (bool, error) {
	is, err := Sysctl(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return is == value, err
}

func readQdiscs() ([]plan.Qdisc, error) {
	qdiscs, err := dump("qdiscs", func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return nil, err
	}
	var out []plan.Qdisc
	for _, q := range qdiscs {
		out = append(out, plan.Qdisc{Index: q.Attrs().LinkIndex, Kind: q.Type()})
	}
	return out, nil
}

// ipsec tells whether packets may be encrypted on their way, or expected to have been.
func ipsec() (bool, error) {
	policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if lacksXFRM(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list policies of IPsec: %w", err)
	}
	states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list states of IPsec: %w", err)
	}
	return len(policies)+len(states) > 0, nil
}

// lacksXFRM is of a kernel without IPsec, or one where nobody has asked for it yet.
func lacksXFRM(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)
}
