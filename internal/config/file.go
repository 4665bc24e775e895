package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// DefaultFile is the configuration that `torbpf run` reads.
const DefaultFile = "/etc/torbpf/torbpf.toml"

// file is a Config as it is written: only what it holds differs from Default.
type file struct {
	Interfaces []string       `toml:"interfaces,omitempty"`
	Uplinks    []string       `toml:"uplinks,omitempty"`
	Local      *string        `toml:"local,omitempty"`
	Inbound    *string        `toml:"inbound,omitempty"`
	MarkShift  *uint8         `toml:"mark_shift,omitempty"`
	Clsact     *bool          `toml:"clsact,omitempty"`
	Early      *string        `toml:"early_refusal,omitempty"`
	FastPath   *string        `toml:"fastpath,omitempty"`
	SkipProbe  *bool          `toml:"skip_firewall_probe,omitempty"`
	Tor        fileTor        `toml:"tor,omitempty"`
	Client     fileClient     `toml:"client,omitempty"`
	Web        fileWeb        `toml:"web,omitempty"`
	Devices    map[string]MAC `toml:"devices,omitempty"`
	Exclusions fileExclusions `toml:"exclusions,omitempty"`
	Rules      []fileRule     `toml:"rules,omitempty"`
}

// fileClient is about this machine's own traffic.
type fileClient struct {
	Enable     *bool          `toml:"enable,omitempty"`
	ProxyPort  *uint16        `toml:"proxy_port,omitempty"`
	Exclusions fileExclusions `toml:"exclusions,omitempty"`
}

type fileTor struct {
	Mode         *string           `toml:"mode,omitempty"`
	TCPMode      *string           `toml:"tcp_mode,omitempty"`
	Binary       *string           `toml:"binary,omitempty"`
	Instances    any               `toml:"instances,omitempty"` // a number, or "auto"
	Torrc        *string           `toml:"torrc,omitempty"`
	Bridges      []string          `toml:"bridges,omitempty"`
	Control      *string           `toml:"control,omitempty"`
	TransPort    *uint16           `toml:"trans_port,omitempty"`
	DNSPort      *uint16           `toml:"dns_port,omitempty"`
	ResolverPort *uint16           `toml:"resolver_port,omitempty"`
	Onion4       *prefix           `toml:"onion4,omitempty"`
	Onion6       *prefix           `toml:"onion6,omitempty"`
	Transports   map[string]string `toml:"transports,omitempty"`
}

// prefix is read as the command line reads it, so that both take and refuse the same.
type prefix struct{ netip.Prefix }

func (p *prefix) UnmarshalText(text []byte) (err error) {
	p.Prefix, err = ParsePrefix(string(text))
	return err
}

// inboundWords are the values of the key inbound.
var inboundWords = map[string]bool{"allow": true, "refuse": false}

func (f file) config() (Config, error) {
	cfg := Default()
	cfg.Wait = true
	cfg.Interfaces, cfg.Uplinks, cfg.Devices = f.Interfaces, f.Uplinks, f.Devices
	set((*string)(&cfg.Local), f.Local)
	set(&cfg.MarkShift, f.MarkShift)
	set(&cfg.Clsact, f.Clsact)
	set((*string)(&cfg.Early), f.Early)
	set((*string)(&cfg.FastPath), f.FastPath)
	set(&cfg.SkipFirewallProbe, f.SkipProbe)
	if f.Inbound != nil {
		allow, known := inboundWords[*f.Inbound]
		if !known {
			return cfg, &FieldError{Field: "inbound", Problem: fmt.Sprintf("%q is neither allow nor refuse", *f.Inbound)}
		}
		cfg.Inbound = allow
	}
	if err := f.Tor.apply(&cfg.Tor); err != nil {
		return cfg, err
	}
	if err := f.Web.apply(&cfg.Web); err != nil {
		return cfg, err
	}
	set(&cfg.Client.Enable, f.Client.Enable)
	set(&cfg.Client.ProxyPort, f.Client.ProxyPort)
	if f.Client.Exclusions.Resolver != nil {
		return cfg, &FieldError{Field: "client.exclusions.resolver", Problem: "one resolver serves this machine and its LANs: write it into [exclusions]"}
	}
	set(&cfg.Resolver, f.Exclusions.Resolver)
	return cfg, nil
}

// over puts what a later file says over this one: its lists add to those before, of
// anything else the later one counts. Rules are joined elsewhere, with their origins.
func (f file) over(later file) file {
	later.Interfaces = joined(f.Interfaces, later.Interfaces)
	later.Uplinks = joined(f.Uplinks, later.Uplinks)
	if devices := maps.Clone(f.Devices); devices != nil {
		maps.Copy(devices, later.Devices)
		later.Devices = devices
	}
	keep(&later.Local, f.Local)
	keep(&later.Inbound, f.Inbound)
	keep(&later.MarkShift, f.MarkShift)
	keep(&later.Clsact, f.Clsact)
	keep(&later.Early, f.Early)
	keep(&later.FastPath, f.FastPath)
	keep(&later.SkipProbe, f.SkipProbe)
	keep(&later.Exclusions.Resolver, f.Exclusions.Resolver)
	later.Web.over(f.Web)
	keep(&later.Client.Enable, f.Client.Enable)
	keep(&later.Client.ProxyPort, f.Client.ProxyPort)
	keep(&later.Tor.Mode, f.Tor.Mode)
	keep(&later.Tor.TCPMode, f.Tor.TCPMode)
	keep(&later.Tor.Binary, f.Tor.Binary)
	if later.Tor.Instances == nil {
		later.Tor.Instances = f.Tor.Instances
	}
	keep(&later.Tor.Torrc, f.Tor.Torrc)
	later.Tor.Bridges = joined(f.Tor.Bridges, later.Tor.Bridges)
	if transports := maps.Clone(f.Tor.Transports); transports != nil {
		maps.Copy(transports, later.Tor.Transports)
		later.Tor.Transports = transports
	}
	keep(&later.Tor.Control, f.Tor.Control)
	keep(&later.Tor.TransPort, f.Tor.TransPort)
	keep(&later.Tor.DNSPort, f.Tor.DNSPort)
	keep(&later.Tor.ResolverPort, f.Tor.ResolverPort)
	keep(&later.Tor.Onion4, f.Tor.Onion4)
	keep(&later.Tor.Onion6, f.Tor.Onion6)
	return later
}

// unname forgets what devices are called that saved names call something else: a device has
// one name, and those were told last.
func (f file) unname(saved map[string]MAC) {
	maps.DeleteFunc(f.Devices, func(_ string, mac MAC) bool {
		return slices.Contains(slices.Collect(maps.Values(saved)), mac)
	})
}

// joined is both lists, each entry once; nil if neither file has one.
func joined(a, b []string) []string {
	if a == nil {
		return b
	}
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// keep has a value where only the earlier file names it.
func keep[T any](later **T, earlier *T) {
	if *later == nil {
		*later = earlier
	}
}

func (f fileTor) apply(t *Tor) error {
	set((*string)(&t.Mode), f.Mode)
	set((*string)(&t.TCPMode), f.TCPMode)
	set(&t.Binary, f.Binary)
	set(&t.Torrc, f.Torrc)
	if len(f.Bridges) > 0 {
		t.Bridges = f.Bridges
	}
	if len(f.Transports) > 0 {
		t.Transports = f.Transports
	}
	set(&t.Control, f.Control)
	set(&t.TransPort, f.TransPort)
	set(&t.DNSPort, f.DNSPort)
	set(&t.ResolverPort, f.ResolverPort)
	if f.Onion4 != nil {
		t.Onion4 = f.Onion4.Prefix
	}
	if f.Onion6 != nil {
		t.Onion6 = f.Onion6.Prefix
	}
	if f.Instances == nil {
		return nil
	}
	var err error
	if t.Instances, err = readInstances(f.Instances); err != nil {
		return &FieldError{Field: "tor.instances", Problem: err.Error()}
	}
	return nil
}

// set takes a value over where the file has one.
func set[T any](into *T, value *T) {
	if value != nil {
		*into = *value
	}
}

// Text writes a configuration as a file that Parse reads: what is as in Default is
// left out. An exclusion of everything, and an interface that was forced, cannot be
// written: no file may ask for them.
func (c Config) Text() ([]byte, error) {
	if c.Force {
		return nil, errors.New("a file cannot hold this configuration: an interface was attached by --force though it has the default route; attach the others alone, then enable")
	}
	d := Default()
	f := file{
		Interfaces: c.Interfaces, Uplinks: c.Uplinks, Devices: c.Devices,
		Local: differing(string(c.Local), string(d.Local)), MarkShift: differing(c.MarkShift, d.MarkShift), Clsact: differing(c.Clsact, d.Clsact), Early: differing(string(c.Early), string(d.Early)),
		FastPath:  differing(string(c.FastPath), string(d.FastPath)),
		SkipProbe: differing(c.SkipFirewallProbe, d.SkipFirewallProbe),
		Tor: fileTor{
			Mode: differing(string(c.Tor.Mode), string(d.Tor.Mode)), TCPMode: differing(string(c.Tor.TCPMode), string(d.Tor.TCPMode)), Binary: differing(c.Tor.Binary, d.Tor.Binary),
			Torrc: differing(c.Tor.Torrc, d.Tor.Torrc), Bridges: c.Tor.Bridges, Transports: c.Tor.Transports, Control: differing(c.Tor.Control, d.Tor.Control),
			TransPort: differing(c.Tor.TransPort, d.Tor.TransPort), DNSPort: differing(c.Tor.DNSPort, d.Tor.DNSPort),
			ResolverPort: differing(c.Tor.ResolverPort, d.Tor.ResolverPort),
		},
	}
	if !c.Inbound {
		refuse := "refuse"
		f.Inbound = &refuse
	}
	if c.Tor.Instances.String() != d.Tor.Instances.String() {
		f.Tor.Instances = c.Tor.Instances.written()
	}
	if c.Tor.Onion4.IsValid() {
		f.Tor.Onion4 = &prefix{c.Tor.Onion4}
	}
	if c.Tor.Onion6.IsValid() {
		f.Tor.Onion6 = &prefix{c.Tor.Onion6}
	}
	f.Client = fileClient{Enable: differing(c.Client.Enable, d.Client.Enable), ProxyPort: differing(c.Client.ProxyPort, d.Client.ProxyPort)}
	f.Web = c.Web.file()
	f.setRules(c.Rules)
	if c.Resolver.IsValid() {
		f.Exclusions.Resolver = &c.Resolver
	}
	text, err := toml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if _, err := Parse(text); err != nil {
		return nil, fmt.Errorf("a file cannot hold this configuration: %w", err)
	}
	return text, nil
}

func differing[T comparable](value, fallback T) *T {
	if value == fallback {
		return nil
	}
	return &value
}
