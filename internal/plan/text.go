package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// String writes the whole plan as text, one fact a line, the same for the same
// plan: to be read, and to be compared.
func (p *Plan) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("table inet %s", Table)
	line("mark 0x%08x, class 0x%08x", p.Mark.Mask(), p.Mark.ClassMask())
	line("rules from priority %d, protocol %d", RulePriority, RuleProtocol)
	line("ports trans %d, dns %d, resolver %d", p.Ports.Trans, p.Ports.DNS, p.Ports.Resolver)
	if p.TProxy {
		line("TCP is handed to tor's socket, by table %d", RouteTable)
	}
	line("onion %s, %s", p.Onion4, p.Onion6)
	if tors := p.Tors(); len(tors) > 1 {
		for i, t := range tors {
			line("tor %d: trans %d, dns %d, onion %s, %s", i, t.Trans, t.DNS, t.Onion4, t.Onion6)
		}
	}
	line("local %s", p.LocalMode)
	line("inbound replies %s", map[bool]string{true: "pass", false: "refused"}[p.Inbound])
	line("NTP %s", map[bool]string{true: "to the router's time server", false: "refused"}[p.TimeServer])
	if p.Fast {
		line("fast path for what is direct")
	}
	if p.Flowtable {
		line("flowtable for what is direct, of %s", strings.Join(p.FlowDevices(), ", "))
	}
	for _, l := range p.LANs {
		line("lan %s", device(l.Name, l.Index, l.Ethernet))
		line("  answers from %s", words(l.Addr4, l.Addr6))
		line("  early refusal %s", l.earlyText())
		for _, a := range l.Addrs {
			line("  has %s", a)
		}
		for _, prefix := range l.Prefixes {
			line("  expects %s", prefix)
		}
	}
	for _, name := range append(p.Waiting, p.Patterns...) {
		line("blocked until it is there: %s", name)
	}
	for _, u := range p.Uplinks {
		line("uplink %s", device(u.Name, u.Index, u.Ethernet))
	}
	for _, s := range p.Local {
		line("subnet %s by %s (%d)", s.Prefix, s.Name, s.Index)
	}
	for _, a := range p.LocalAddrs {
		line("address %s", a)
	}
	for _, r := range p.Rules {
		line("%s %s", r.Policy, ruleText(r))
	}
	if p.Client != nil {
		p.Client.write(line)
	}
	return b.String()
}

// write adds what becomes of this machine's own traffic.
func (c *Client) write(line func(string, ...any)) {
	line("this machine: %s", map[bool]string{true: "all on Tor", false: "what exec runs on Tor"}[c.All])
	for _, r := range c.Rules {
		line("  %s %s", r.Policy, ruleText(r))
	}
	for _, id := range c.Identities {
		line("  %s %s", id.Policy, id)
	}
	for _, o := range c.Direct {
		line("  direct to %s", o.Prefix)
	}
	for _, s := range c.Local {
		line("  subnet %s by %s (%d)", s.Prefix, s.Name, s.Index)
	}
	line("  anybody's ports from %d", c.Ephemeral)
	for _, s := range c.OnLink {
		line("  neighbours in %s by %s (%d)", s.Prefix, s.Name, s.Index)
	}
	if c.ProxyPort != 0 {
		line("  proxy past Tor at port %d", c.ProxyPort)
	}
}

// String names whom an identity is.
func (id Identity) String() string {
	switch id.Kind {
	case config.KindUser:
		return fmt.Sprintf("user %d", id.User)
	case config.KindCgroup:
		return fmt.Sprintf("control group %d", id.Cgroup)
	}
	return fmt.Sprintf("program %d on device %d:%d", id.Program.Inode, id.Program.Major, id.Program.Minor)
}

// ruleText says what a rule matches, and how long it holds.
func ruleText(r config.Rule) string {
	how := map[config.Kind]string{
		config.KindDestination: "to", config.KindPort: "to port", config.KindSource: "from", config.KindDevice: "from device",
		config.KindMark: "with mark", config.KindInterface: "by interface", config.KindDomain: "to the name", config.KindList: "to list",
		config.KindUser: "from user", config.KindCgroup: "from control group", config.KindProgram: "from program",
	}
	text := fmt.Sprintf("%s %s", how[r.Kind], r.Entry)
	if !r.Until.IsZero() {
		text += " until " + r.Until.UTC().Format(time.RFC3339)
	}
	if r.Beneath != nil {
		text += fmt.Sprintf(", then %s", r.Beneath.Policy)
	}
	return text
}

func device(name string, index int, ethernet bool) string {
	header := "no link header"
	if ethernet {
		header = "ethernet"
	}
	return fmt.Sprintf("%s (%d), %s", name, index, header)
}

// words joins the addresses that there are.
func words(addrs ...netip.Addr) string {
	var out []string
	for _, a := range addrs {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ", ")
}
