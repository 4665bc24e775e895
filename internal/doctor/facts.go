package doctor

import (
	"net/netip"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// Facts are what is known of a host, and of torbpf there.
type Facts struct {
	Root     bool
	Attached bool
	// Interfaces are LANs, or to be looked at as if they were to be; Fit those of them that
	// could be, which the Plan is for. It is nil where there is none.
	Interfaces, Fit []string
	Plan            *plan.Plan
	Config          config.Config
	Host            plan.Host
	Refusals        []*plan.Refusal // why others could not be

	Kernel     Kernel
	RulesAhead []string // ip rules of others before the place of ours, in words
	Programs   []plan.Program
	Flowtables []string
	Firewall   Firewall
	Listening  []Listener
	Routers    []OtherRouter
	FastOff    []string // why there is no fast path, where there is to be one

	Tor    Tor
	Status Status // while something is attached
	Boot   Boot   // likewise

	// Advice is what attach would warn of, by the check that tells it.
	Advice map[string][]Advice
	// Unread says why a check could not look at what it is about.
	Unread map[string]error
}

// Kernel is what it can do.
type Kernel struct {
	Release string
	BTF     bool
	BPFFS   bool // it knows the file system that programs are pinned in
	Forward bool // it can have the guard of what is forwarded
	// BPF and NFT are why it does not take our programs, or our table.
	BPF, NFT error
	Lacks    []string // layers that are attached without, in words
	Pins     error    // why those of what is attached cannot be reached
}

// Firewall is what chains of others do, see internal/router.
type Firewall struct {
	Delivered []Stopped // of what is diverted to Tor
	Forwarded []Stopped // of what is excluded
	Wiping    []string  // chains that set the whole mark
	Legacy    bool      // iptables-legacy has filter rules, which are not seen
	Docker    bool
	Input     []string // the filter chains that packets to this machine meet
}

// Stopped is what becomes of a LAN's packets in a chain.
type Stopped struct {
	Chain   string
	LAN     string
	What    []string // the kinds of packets
	Perhaps bool     // it cannot be told
	Rules   []string // to add
}

// Listener is a socket that others may reach.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Addr     netip.AddrPort
	PID      int
	Process  string // "" if it is not known
	Ours     bool
	From     []string // uplinks from which it can be reached
	Perhaps  []string // those from which that cannot be told
}

// OtherRouter is somebody on a LAN that devices may take for a router.
type OtherRouter struct {
	LAN  string
	Addr netip.Addr
	MAC  string
	How  string // in words, why
}

// Tor is the tor that is used, or would be.
type Tor struct {
	Mode    config.TorMode
	Missing error  // why there is none
	Version string // "" if it is not known
	// ValidAfter and ValidUntil are those of the consensus that tor has, zero for none; Cached
	// says that it was read from what tor has kept, so it may be old.
	ValidAfter, ValidUntil time.Time
	Cached                 bool
	Built                  time.Time // this program; zero if that is not known
	Now                    time.Time
	Skew                   string // what tor says of the clock, "" for nothing
}

// Boot is what of all that is attached is there after a reboot.
type Boot struct {
	Managed bool // somebody is known who starts services at boot
	Service bool // and has torbpf among them
	Enabled bool // which is started at boot
	File    string
	Missing []string // what is on Tor now, and not by the File
}

// Status is what `torbpf status` says.
type Status struct {
	Problems []string
	Stopped  uint64
	Alive    bool
	Ready    bool
	Blocked  bool
	Percent  int
	Summary  string
	OwnDNS   uint64
}
