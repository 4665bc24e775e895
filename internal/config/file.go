package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultFile is the configuration that `torbpf run` reads.
const DefaultFile = "/etc/torbpf/torbpf.toml"

// file is a Config as it is written: only what it holds differs from Default.
type file struct {
	Interfaces []string       `toml:"interfaces"`
	Uplinks    []string       `toml:"uplinks,omitempty"`
	Local      *string        `toml:"local,omitempty"`
	Inbound    *string        `toml:"inbound,omitempty"`
	MarkShift  *uint8         `toml:"mark_shift,omitempty"`
	Clsact     *bool          `toml:"clsact,omitempty"`
	SkipProbe  *bool          `toml:"skip_firewall_probe,omitempty"`
	Tor        fileTor        `toml:"tor,omitempty"`
	Exclusions fileExclusions `toml:"exclusions,omitempty"`
	Rules      []fileRule     `toml:"rules,omitempty"`
}

type fileTor struct {
	Mode         *string `toml:"mode,omitempty"`
	Binary       *string `toml:"binary,omitempty"`
	Torrc        *string `toml:"torrc,omitempty"`
	Control      *string `toml:"control,omitempty"`
	TransPort    *uint16 `toml:"trans_port,omitempty"`
	DNSPort      *uint16 `toml:"dns_port,omitempty"`
	ResolverPort *uint16 `toml:"resolver_port,omitempty"`
	Onion4       *prefix `toml:"onion4,omitempty"`
	Onion6       *prefix `toml:"onion6,omitempty"`
}

// prefix is read as the command line reads it, so that both take and refuse the same.
type prefix struct{ netip.Prefix }

func (p *prefix) UnmarshalText(text []byte) (err error) {
	p.Prefix, err = ParsePrefix(string(text))
	return err
}

// inboundWords are the values of the key inbound.
var inboundWords = map[string]bool{"allow": true, "refuse": false}

// Load reads a configuration file. What it does not mention is as in Default;
// what torbpf does not know is an error, as is all that Validate refuses. Its
// interfaces are waited for. Errors name the file and, where one line is at fault,
// that line; they wrap ErrInvalid, or os.ErrNotExist for a file that is not there.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// Parse reads a configuration from its text; see Load.
func Parse(text []byte) (Config, error) {
	var f file
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return Config{}, fileError(err)
	}
	cfg, err := f.config()
	if err != nil {
		return Config{}, err
	}
	if err := cfg.Rules.setOrigins(text); err != nil {
		return Config{}, err
	}
	if len(cfg.Interfaces) == 0 {
		return Config{}, &FieldError{Field: "interfaces", Problem: `is missing or empty: name the interfaces your devices are behind, such as interfaces = ["eth1"]`}
	}
	return cfg, cfg.Validate()
}

// fileError says in which line of a file an error is.
func fileError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var problems []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			problems = append(problems, fmt.Errorf("line %d: unknown key %s: packaging/torbpf.toml lists those there are (installed below share/doc/torbpf): %w", row, strings.Join(e.Key(), "."), ErrInvalid))
		}
		return errors.Join(problems...)
	}
	var decode *toml.DecodeError
	if !errors.As(err, &decode) {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	row, _ := decode.Position()
	where := fmt.Sprintf("line %d", row)
	if key := strings.Join(decode.Key(), "."); key != "" {
		where += ", " + key
	}
	return fmt.Errorf("%s: %s: %w", where, strings.TrimPrefix(decode.Error(), "toml: "), ErrInvalid)
}

func (f file) config() (Config, error) {
	cfg := Default()
	cfg.Wait = true
	cfg.Interfaces, cfg.Uplinks = f.Interfaces, f.Uplinks
	set((*string)(&cfg.Local), f.Local)
	set(&cfg.MarkShift, f.MarkShift)
	set(&cfg.Clsact, f.Clsact)
	set(&cfg.SkipFirewallProbe, f.SkipProbe)
	if f.Inbound != nil {
		allow, known := inboundWords[*f.Inbound]
		if !known {
			return cfg, &FieldError{Field: "inbound", Problem: fmt.Sprintf("%q is neither allow nor refuse", *f.Inbound)}
		}
		cfg.Inbound = allow
	}
	f.Tor.apply(&cfg.Tor)
	cfg.Rules = f.rules()
	return cfg, nil
}

func (f fileTor) apply(t *Tor) {
	set((*string)(&t.Mode), f.Mode)
	set(&t.Binary, f.Binary)
	set(&t.Torrc, f.Torrc)
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
		Interfaces: c.Interfaces, Uplinks: c.Uplinks,
		Local: differing(string(c.Local), string(d.Local)), MarkShift: differing(c.MarkShift, d.MarkShift), Clsact: differing(c.Clsact, d.Clsact),
		SkipProbe: differing(c.SkipFirewallProbe, d.SkipFirewallProbe),
		Tor: fileTor{
			Mode: differing(string(c.Tor.Mode), string(d.Tor.Mode)), Binary: differing(c.Tor.Binary, d.Tor.Binary),
			Torrc: differing(c.Tor.Torrc, d.Tor.Torrc), Control: differing(c.Tor.Control, d.Tor.Control),
			TransPort: differing(c.Tor.TransPort, d.Tor.TransPort), DNSPort: differing(c.Tor.DNSPort, d.Tor.DNSPort),
			ResolverPort: differing(c.Tor.ResolverPort, d.Tor.ResolverPort),
		},
	}
	if !c.Inbound {
		refuse := "refuse"
		f.Inbound = &refuse
	}
	if c.Tor.Onion4.IsValid() {
		f.Tor.Onion4 = &prefix{c.Tor.Onion4}
	}
	if c.Tor.Onion6.IsValid() {
		f.Tor.Onion6 = &prefix{c.Tor.Onion6}
	}
	f.setRules(c.Rules)
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
