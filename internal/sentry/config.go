package sentry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// Config is what a sentry must know; it travels as JSON from Spawn to RunChild.
type Config struct {
	Tors         []TorConfig    `json:"tors"`          // by instance, which is the number of a gate as well
	ResolverPort uint16         `json:"resolver_port"` // TCP and UDP, both families
	LANPrefixes  []netip.Prefix `json:"lan_prefixes"`  // whom to serve
	// LANs are the names of the torified interfaces. A link-local peer has an
	// address that says nothing of where it is, so these decide.
	LANs []string `json:"lans"`
	// OnionPrefixes are the ranges of addresses that tor hands out for .onion
	// names: their reverse names are tor's. None: they are like other private ones.
	OnionPrefixes []netip.Prefix `json:"onion_prefixes,omitempty"`
	// LocalResolvers are where the router's own resolver may listen, which is asked
	// for local names only; none: port 53 of the loopback addresses.
	LocalResolvers []netip.AddrPort `json:"local_resolvers,omitempty"`

	// Domains are the excluded names, and Resolver is asked for them.
	Domains  []Domain   `json:"domains,omitempty"`
	Resolver netip.Addr `json:"resolver"`

	GateFD   int `json:"gate_fd"`   // the BPF array `gates`; set by Spawn
	SlotsFD  int `json:"slots_fd"`  // the BPF array `domain_slots`; set by Spawn, 0: there is none
	AskersFD int `json:"askers_fd"` // the BPF array `askers`; set by Spawn, 0: there is none
	MemoryFD int `json:"memory_fd"` // a socket that listens, see Recall; set by Spawn, 0: there is none
}

// TorConfig is one of the tors that are watched and asked.
type TorConfig struct {
	Control string `json:"control"` // its control address, for the Dialer
	DNSPort uint16 `json:"dns_port"`
	// Before is what a sentry before this one knew of its circuits.
	Before circuits.Memory `json:"before"`
}

// Domain is an excluded name.
type Domain struct {
	Name string        `json:"name"`              // as config.ParseDomain reads it
	Ends time.Duration `json:"ends_ns,omitempty"` // since boot (CLOCK_BOOTTIME); 0: never
}

// tellsDevices says whether it matters which device asks.
func (c Config) tellsDevices() bool { return len(c.Domains) > 0 || len(c.Tors) > 1 }

func (c Config) validate() error {
	if len(c.Tors) == 0 {
		return errors.New("validate the sentry's configuration: there is no tor to watch")
	}
	noDNSPort := slices.ContainsFunc(c.Tors, func(t TorConfig) bool { return t.DNSPort == 0 })
	if noDNSPort || c.ResolverPort == 0 {
		return errors.New("validate the sentry's configuration: DNSPort and resolver port must not be 0")
	}
	for _, p := range c.LANPrefixes {
		if !p.IsValid() {
			return errors.New("validate the sentry's configuration: empty LAN prefix")
		}
		if p.Bits() == 0 {
			return fmt.Errorf("validate the sentry's configuration: LAN prefix %v would serve everyone", p)
		}
	}
	return nil
}

// peers says who is served. Everyone else is not even told that somebody
// listens, so that the port is no open resolver when no firewall guards it.
type peers struct {
	prefixes []netip.Prefix
	lans     []string
}

// allowed judges an address as a socket reports it: unmapped, and with the name
// of the interface as the zone of a link-local one.
func (p peers) allowed(peer netip.Addr) bool {
	switch {
	case peer.IsLoopback():
		return true
	case peer.Is6() && peer.IsLinkLocalUnicast():
		return slices.Contains(p.lans, peer.Zone())
	}
	return slices.ContainsFunc(p.prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(peer) })
}
