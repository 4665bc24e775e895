package router

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/redact"
	"github.com/torbpf/torbpf/internal/users"
)

// secrets are the words that no pattern tells from others.
func (g *gathering) secrets(o DoctorOptions) (redact.Known, error) {
	var k redact.Known
	var err error
	if k.Hosts, err = host.Names(); err != nil {
		return k, err
	}
	if k.Users, err = users.People(); err != nil {
		return k, err
	}
	configs := []config.Config{g.state.Config}
	if o.File == "" {
		o.File = config.DefaultFile
	}
	if cfg, err := config.Load(o.File); err == nil { // or nothing of it can be anywhere
		configs = append(configs, cfg)
	}
	k.Spaces = namespaces()
	for _, l := range g.state.Lists {
		k.Lists = append(k.Lists, l.Path, filepath.Base(l.Path))
	}
	for _, l := range g.facts.Host.Links {
		k.Plain = append(k.Plain, l.Name)
	}
	for _, cfg := range configs {
		for name := range cfg.Devices {
			k.Devices = append(k.Devices, name)
		}
		for _, rule := range cfg.Rules.Layers() {
			k.Comments = append(k.Comments, rule.Comment)
			k.Apps = append(k.Apps, rule.Cgroup, rule.Program)
			if rule.List != "" {
				k.Lists = append(k.Lists, rule.List, filepath.Base(rule.List))
			}
			k.Domains = append(k.Domains, strings.TrimPrefix(rule.Domain, "*."))
			if strings.ContainsFunc(rule.User, func(c rune) bool { return c < '0' || c > '9' }) && rule.User != "root" {
				k.Users = append(k.Users, rule.User)
			}
		}
		for _, line := range append(torrcBridges(cfg.Tor.Torrc), cfg.Tor.Bridges...) {
			k.Bridges = append(k.Bridges, bridgeWords(line)...)
		}
	}
	return k, nil
}

// namespaces are the network namespaces that have names (ip-netns(8)).
func namespaces() []string {
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		return nil // and so ip has no names for any; their places are hidden in any case
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// torrcBridges are the bridge lines of a torrc, without the first word.
func torrcBridges(torrc string) []string {
	text, err := os.ReadFile(torrc)
	if err != nil {
		return nil // and so none of it is anywhere
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.EqualFold(fields[0], "bridge") {
			out = append(out, strings.Join(fields[1:], " "))
		}
	}
	return out
}

// bridgeWords are those of a bridge line that tell it from others: all settings with their keys,
// the address with its port as it is written and as torbpf writes it, and values by themselves.
func bridgeWords(line string) []string {
	const short = 5 // such as the names of transports' options
	var words []string
	if b, err := config.ParseBridge(line); err == nil {
		words = append(words, b.Addr.String())
	}
	for _, f := range strings.Fields(line) {
		_, value, both := strings.Cut(f, "=")
		if both {
			words = append(words, f)
		} else {
			value = f
		}
		if len(value) > short && !slices.Contains(transports, value) {
			words = append(words, value)
		}
	}
	return words
}

// transports are words of bridge lines that tell nobody apart.
var transports = []string{"snowflake", "webtunnel", "meek_lite", "conjure"}
