package plan

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// Shortcut leads TCP of this machine's own that is plainly Tor's to TransPort as it
// connects. Whatever a rule may be about takes the way by nftables.
type Shortcut struct {
	TorGroup string         // the control group of tor's sockets, below the root: who asks there where a connection was to go
	Detours  []netip.Prefix // destinations that take the other way, beside private and reserved ones
	Ports    []uint16       // of TCP, likewise
}

// shortcut is nil where tor cannot be asked, or rules look at what is not known yet when a
// socket connects: the marks that the user's own rules give, and the interface.
func (c *Client) shortcut(torGroup string, onion ...netip.Prefix) *Shortcut {
	if !c.All || torGroup == "" || len(c.Rules.Of(config.KindMark)) > 0 || len(c.Rules.Of(config.KindInterface)) > 0 {
		return nil
	}
	s := &Shortcut{TorGroup: torGroup}
	for _, o := range c.Direct {
		s.Detours = append(s.Detours, o.Prefix)
	}
	for _, p := range onion {
		if p.IsValid() {
			s.Detours = append(s.Detours, p.Masked())
		}
	}
	for _, r := range c.Rules.Of(config.KindPort) {
		if r.Service.Protocol == config.ProtocolTCP {
			s.Ports = append(s.Ports, r.Service.Port)
		}
	}
	slices.Sort(s.Ports)
	s.Ports = slices.Compact(s.Ports)
	return s
}
