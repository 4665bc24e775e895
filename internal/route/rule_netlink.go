package route

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// The messages are made and read here: netlink.RuleList does not tell a rule's
// action, so with it a rule of ours that somebody turned from blackhole into nop
// would look sound.

// policyRouting is what the kernel needs for any rule.
const policyRouting = "policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)"

// Flags of struct fib_rule_hdr (linux/fib_rules.h).
const (
	ruleInvert      = 0x00000002
	ruleIIFDetached = 0x00000008
)

// installed is a rule as the kernel lists it.
type installed struct {
	rule
	// altered: it has selectors that none of ours has, so it is not the one it
	// resembles.
	altered bool
	// detached: its interface does not exist now, so it matches nothing.
	detached bool
	message  []byte // what the kernel sent, with which it can be deleted
}

// listRules returns the rules that are ours by protocol and priority. Where the
// kernel has no IPv6 there is nothing to guard, and nothing is listed.
func listRules(family uint8) (rules []installed, supported bool, err error) {
	messages, err := kernel.Whole(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	})
	if errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6 && !kernel.HasIPv6() {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("list ip rules: %w", kernel.Explain(err, policyRouting))
	}
	for _, m := range messages {
		r, ours, err := parseRule(m)
		if err != nil {
			return nil, false, fmt.Errorf("parse ip rule: %w", err)
		}
		if ours && r.family == family {
			rules = append(rules, r)
		}
	}
	return rules, true, nil
}

// parseRule reads one RTM_NEWRULE message; ours is false for other people's.
func parseRule(m []byte) (r installed, ours bool, err error) {
	header := nl.DeserializeRtMsg(m)
	attrs, err := nl.ParseRouteAttr(m[header.Len():])
	if err != nil {
		return installed{}, false, err
	}
	r.message = m
	r.family, r.action = header.Family, header.Type
	r.detached = header.Flags&ruleIIFDetached != 0
	r.altered = header.Flags&ruleInvert != 0 || header.Tos != 0
	var protocol uint8
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case nl.FRA_PRIORITY:
			r.priority = binary.NativeEndian.Uint32(attr.Value)
		case nl.FRA_PROTOCOL:
			protocol = attr.Value[0]
		case nl.FRA_IIFNAME:
			r.iif = unix.ByteSliceToString(attr.Value)
		case nl.FRA_FWMARK:
			r.mark = binary.NativeEndian.Uint32(attr.Value)
		case nl.FRA_FWMASK:
			r.mask = binary.NativeEndian.Uint32(attr.Value)
		case nl.FRA_TABLE:
			if r.action == nl.FR_ACT_TO_TBL {
				r.table = binary.NativeEndian.Uint32(attr.Value)
			}
		case nl.FRA_GOTO:
			r.target = binary.NativeEndian.Uint32(attr.Value)
		case nl.FRA_SRC, nl.FRA_DST, nl.FRA_OIFNAME, nl.FRA_TUN_ID, nl.FRA_L3MDEV,
			nl.FRA_UID_RANGE, nl.FRA_IP_PROTO, nl.FRA_SPORT_RANGE, nl.FRA_DPORT_RANGE:
			r.altered = true
		}
	}
	ours = protocol == plan.RuleProtocol && r.priority >= priorityHandOver && r.priority <= priorityLast
	return r, ours, nil
}

// addRule adds a rule.
func addRule(r rule) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: r.family, Type: r.action}})
	req.AddData(nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(r.priority)))
	req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(plan.RuleProtocol)))
	if r.iif != "" {
		req.AddData(nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.iif)))
	}
	if r.mask != 0 {
		req.AddData(nl.NewRtAttr(nl.FRA_FWMARK, nl.Uint32Attr(r.mark)))
		req.AddData(nl.NewRtAttr(nl.FRA_FWMASK, nl.Uint32Attr(r.mask)))
	}
	if r.action == nl.FR_ACT_TO_TBL {
		req.AddData(nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(r.table)))
	}
	if r.action == nl.FR_ACT_GOTO {
		req.AddData(nl.NewRtAttr(nl.FRA_GOTO, nl.Uint32Attr(r.target)))
	}
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add ip rule (%s): %w", r, kernel.Explain(err, policyRouting))
	}
	return nil
}

// deleteRule deletes a rule by giving the kernel's own description back to it:
// protocol and priority are part of that, so other people's rules are safe.
func deleteRule(r installed) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELRULE, unix.NLM_F_ACK)
	req.AddRawData(r.message)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) { // somebody was faster
		return fmt.Errorf("delete ip rule (%s): %w", r.rule, kernel.Explain(err, policyRouting))
	}
	return nil
}
