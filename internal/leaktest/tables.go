package leaktest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/testnet"
)

var (
	tableGone   = Fault{Name: "nft table deleted", part: "nft", Inflict: lines("nft delete table inet torbpf")}
	rulesetGone = Fault{Name: "nft flush ruleset", part: "nft", Inflict: flushRuleset}
	forwardGone = Fault{Name: "guard of what is forwarded gone", part: "forward", Inflict: func(b *Bench) error {
		return TakeForwardGuard(b.ctx, b.Lab.Router, b.pins("links"))
	}}

	wgRules = Fault{Name: "wg-quick's mark-restoring rules", Inflict: userTable("wg", `
		chain premangle { type filter hook prerouting priority mangle; meta l4proto udp meta mark set ct mark; }
		chain postmangle { type filter hook postrouting priority mangle; meta l4proto udp meta mark 51820 ct mark set meta mark; }`)}
)

func tableFaults() []Fault {
	return []Fault{
		tableGone, rulesetGone,
		{Name: "our nft chains emptied", Inflict: lines("nft flush table inet torbpf")},
		{Name: "our nft set of LANs emptied", Inflict: lines("nft flush set inet torbpf lans")},
		forwardGone,
		{Name: "conntrack flushed", Inflict: lines("conntrack -F")},
		{Name: "conntrack flushed + nft flush ruleset", Inflict: steps(lines("conntrack -F"), flushRuleset)},
		wgRules,
		{Name: "rules that restore every mark", Inflict: userTable("marks", `
		chain arriving { type filter hook prerouting priority mangle; meta mark set ct mark; }
		chain leaving { type filter hook postrouting priority mangle; ct mark set meta mark; }`)},
		{Name: "user firewall drops input and forward", Inflict: userTable("fw", `
		chain arriving { type filter hook input priority filter; policy drop; iif lo accept; ct state established,related accept; }
		chain forwarded { type filter hook forward priority filter; policy drop; ct state established,related accept; }`)},
		{Name: "user rules accept and masquerade all", Inflict: userTable("open", `
		chain forwarded { type filter hook forward priority -300; policy accept; accept; }
		chain masks { type nat hook postrouting priority 50; masquerade; }`)},
	}
}

// flushRuleset takes all of nftables away and gives the user's own rules back, or
// those of IPv4 could not be told from the lack of masquerading.
func flushRuleset(b *Bench) error {
	own, err := b.Lab.Router.Run(b.ctx, "nft", "list", "table", "ip", "nat")
	if err != nil {
		return err
	}
	if err := b.run("nft flush ruleset"); err != nil {
		return err
	}
	return b.feed(own)
}

// userTable loads a table of the user's, which goes before the repair.
func userTable(name, chains string) func(*Bench) error {
	return func(b *Bench) error {
		b.undoRun("nft delete table inet " + name)
		return b.feed("table inet " + name + " {" + chains + "\n}\n")
	}
}

// DeleteRules deletes all ip rules of ours in a router, of which there may be none.
func DeleteRules(ctx context.Context, router *testnet.Node) error {
	for _, family := range []string{"-4", "-6"} {
		if _, err := router.Run(ctx, "ip", family, "rule", "flush", "protocol", strconv.Itoa(plan.RuleProtocol)); err != nil {
			return fmt.Errorf("delete rules: %w", err)
		}
	}
	return nil
}

// TakeForwardGuard detaches the guard of what is forwarded, whose links are pinned in a folder,
// or removes what stands in for it. Without its pin alone it would be attached until the
// kernel gets round to it.
func TakeForwardGuard(ctx context.Context, router *testnet.Node, links string) error {
	guarded, err := loader.CanGuardForward()
	if err != nil {
		return err
	}
	if !guarded {
		return DeleteRules(ctx, router)
	}
	for _, name := range []string{loader.GuardForward4, loader.GuardForward6} {
		l, err := link.LoadPinnedLink(filepath.Join(links, name), nil)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		if err := errors.Join(l.Detach(), l.Unpin(), l.Close()); err != nil {
			return fmt.Errorf("detach %s: %w", name, err)
		}
	}
	return nil
}
