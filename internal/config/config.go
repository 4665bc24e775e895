// Package config says what a user wants of torbpf. It knows nothing of the
// host: internal/plan turns a Config and the facts of a host into a Plan.
package config

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// PortDNS is where DNS is asked, by UDP and TCP; the programs have it in C.
const PortDNS = 53

// PortNTP is where time servers are asked, by UDP; the programs have it in C.
const PortNTP = 123

// LocalMode says what becomes of destinations in private or reserved space
// that no exclusion names.
type LocalMode string

// The three local modes; LocalConnected is the default.
const (
	// LocalConnected lets local subnets be reached and refuses private
	// destinations that would leave by an uplink.
	LocalConnected LocalMode = "connected"
	// LocalReserved lets all reserved space out, as networking.tor does.
	LocalReserved LocalMode = "reserved"
	// LocalNone refuses local subnets as well; only the router is reachable.
	LocalNone LocalMode = "none"
)

// Early says whether, and where, a LAN's refusals are made before the kernel has a packet (XDP).
type Early string

// The choices for it.
const (
	EarlyAuto    Early = "auto"    // in the driver, of those with which bulk TCP loses nothing by it
	EarlyOff     Early = "off"     // where they are made otherwise
	EarlyNative  Early = "native"  // in the driver, if it can
	EarlyGeneric Early = "generic" // behind any driver, which saves little
)

// FastPath says whether what is excluded may go past the kernel's forwarding.
type FastPath string

// The choices for it.
const (
	FastPathOff       FastPath = "off"
	FastPathAuto      FastPath = "auto"      // torbpf's, where it can be had, and while nothing of the host's is in its way
	FastPathFlowtable FastPath = "flowtable" // the kernel's, of nftables, likewise
)

// TorMode says whose tor is used.
type TorMode string

// The two sources of a tor.
const (
	TorManaged TorMode = "managed" // started and watched by torbpf
	TorSystem  TorMode = "system"  // already running; reached by its control socket
)

// TCPMode says how TCP of LANs gets to tor.
type TCPMode string

// The ways to tor.
const (
	TCPRedirect TCPMode = "redirect" // by NAT
	TCPTProxy   TCPMode = "tproxy"   // handed to its socket, without NAT
)

// Config is a complete wish; Default gives one to start from.
type Config struct {
	Interfaces []string  `json:"interfaces"` // LAN interfaces to torify; a * at the end stands for any rest of a name
	Uplinks    []string  `json:"uplinks"`    // named beside those with a default route
	Wait       bool      `json:"wait"`       // interfaces that are missing or not fit yet are waited for, not refused
	Force      bool      `json:"force"`      // take an interface that carries a default route
	Everything bool      `json:"everything"` // let an exclusion cover every address of a family
	Local      LocalMode `json:"local"`
	Inbound    bool      `json:"inbound"` // replies to connections begun outside may leave directly
	MarkShift  uint8     `json:"mark_shift"`
	Clsact     bool      `json:"clsact"` // attach by clsact even where tcx exists
	Early      Early     `json:"early_refusal"`
	FastPath   FastPath  `json:"fastpath"`
	// SkipFirewallProbe attaches without asking whether the host's own firewall
	// lets in what is redirected.
	SkipFirewallProbe bool  `json:"skip_firewall_probe"`
	Tor               Tor   `json:"tor"`
	Rules             Rules `json:"rules"`
	// Client is for what this machine itself sends.
	Client Client `json:"client"`
	// Web is what `torbpf run` serves by TCP.
	Web Web `json:"web"`
	// Resolver is asked for excluded names, in clear; invalid for none.
	Resolver netip.Addr `json:"resolver"`
	// Devices are names for hardware addresses.
	Devices map[string]MAC `json:"devices,omitempty"`
}

// UnmarshalJSON reads a state, that of a torbpf which knew three lists too.
func (c *Config) UnmarshalJSON(text []byte) error {
	type plain Config
	var in struct {
		plain
		Exclusions struct {
			Destinations, Sources []netip.Prefix
			Marks                 []Mark
		} `json:"exclusions"`
	}
	in.Web = Default().Web // of a state that knew none
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*c = Config(in.plain)
	c.Early = cmp.Or(c.Early, EarlyAuto)
	c.Tor.Instances = cmp.Or(c.Tor.Instances, 1)
	c.Tor.TCPMode = cmp.Or(c.Tor.TCPMode, TCPRedirect)
	c.FastPath = cmp.Or(c.FastPath, FastPathOff)
	c.Rules = slices.Concat(c.Rules,
		DirectPrefixes(KindDestination, in.Exclusions.Destinations...),
		DirectPrefixes(KindSource, in.Exclusions.Sources...),
		DirectMarks(in.Exclusions.Marks...))
	return nil
}

// Tor configures the tor behind the router.
type Tor struct {
	Mode      TorMode   `json:"mode"`
	TCPMode   TCPMode   `json:"tcp_mode"`
	Binary    string    `json:"binary"` // path or name of the tor program
	Instances Instances `json:"instances"`
	Torrc     string    `json:"torrc"` // absolute path of a file whose lines are appended; "" for none
	// Bridges are the only ways into the network, as ParseBridge reads them; none: its guards are.
	Bridges []string `json:"bridges,omitempty"`
	// Transports are the programs of pluggable transports, by name; others are looked for.
	Transports   map[string]string `json:"transports,omitempty"`
	Control      string            `json:"control"`
	TransPort    uint16            `json:"trans_port"`
	DNSPort      uint16            `json:"dns_port"`
	ResolverPort uint16            `json:"resolver_port"` // the sentry's, for DNS that DNSPort cannot answer
	Onion4       netip.Prefix      `json:"onion4"`        // zero: chosen to miss every local route
	Onion6       netip.Prefix      `json:"onion6"`
	Timeout      time.Duration     `json:"timeout"` // how long attach waits for the bootstrap
}

// Mark matches packets whose fwmark, under Mask, equals Value.
type Mark struct {
	Value uint32 `json:"value"`
	Mask  uint32 `json:"mask"`
}

// Default returns the configuration of a bare `torbpf attach`.
func Default() Config {
	return Config{
		Local:     LocalConnected,
		Inbound:   true,
		MarkShift: 24,
		Early:     EarlyAuto,
		Web:       Web{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9959")}, Page: true, PasswordFile: "/etc/torbpf/password", Metrics: MetricsLoopback},
		FastPath:  FastPathOff,
		Tor: Tor{
			Mode:         TorManaged,
			TCPMode:      TCPRedirect,
			Binary:       "tor",
			Instances:    1,
			TransPort:    9040,
			DNSPort:      9053,
			ResolverPort: 9054,
			Timeout:      2 * time.Minute,
		},
	}
}
