package router

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/redact"
	"github.com/torbpf/torbpf/internal/users"
)

// bundleDir is the folder that a bundle is unpacked to.
const bundleDir = "torbpf-bundle"

// Bundle writes an archive (tar.gz) of what helps to find out what is wrong, for root alone, and
// without what tells who and where somebody is, so that it can be posted. path must not exist.
// The report is that of Doctor.
func (r *Router) Bundle(ctx context.Context, o DoctorOptions, path string) (*doctor.Report, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("write bundle: %w: remove it, or choose another name", err)
	}
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	report, err := r.fillBundle(ctx, o, file)
	err = errors.Join(err, file.Close())
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return report, nil
}

func (r *Router) fillBundle(ctx context.Context, o DoctorOptions, to io.Writer) (*doctor.Report, error) {
	g, err := r.gather(ctx, o)
	if err != nil {
		return nil, err
	}
	known, err := g.secrets(o)
	if err != nil {
		return nil, err
	}
	report := doctor.Examine(&g.facts)
	redactor := redact.New(known)
	zipped := gzip.NewWriter(to)
	archive := tar.NewWriter(zipped)
	for _, p := range g.parts(ctx, report) {
		text := redactor.Text(p.text)
		if p.name == rulesetPart {
			text = redactor.Ruleset(p.text, "table inet "+plan.Table)
		}
		if kinds := redactor.Leaves(text); len(kinds) > 0 {
			return nil, fmt.Errorf("write bundle: %s would have had a secret in it (%s): nothing was written", p.name, strings.Join(kinds, ", "))
		}
		header := &tar.Header{Name: filepath.Join(bundleDir, p.name), Mode: 0o600, Size: int64(len(text)), ModTime: time.Now()}
		if err := archive.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write bundle: %w", err)
		}
		if _, err := io.WriteString(archive, text); err != nil {
			return nil, fmt.Errorf("write bundle: %w", err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	return report, nil
}

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
	for _, cfg := range configs {
		for name := range cfg.Devices {
			k.Devices = append(k.Devices, name)
		}
		for _, rule := range cfg.Rules.Layers() {
			k.Comments = append(k.Comments, rule.Comment)
			k.Domains = append(k.Domains, strings.TrimPrefix(rule.Domain, "*."))
			if strings.ContainsFunc(rule.User, func(c rune) bool { return c < '0' || c > '9' }) && rule.User != "root" {
				k.Users = append(k.Users, rule.User)
			}
		}
		k.Bridges = append(k.Bridges, bridgeWords(cfg.Tor.Torrc)...)
	}
	return k, nil
}

// bridgeWords are those of the bridge lines of a torrc.
func bridgeWords(torrc string) []string {
	text, err := os.ReadFile(torrc)
	if err != nil {
		return nil // and so none of it is anywhere
	}
	const short = 5 // such as the names of transports' options
	var words []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.EqualFold(fields[0], "bridge") {
			continue
		}
		for _, f := range fields[1:] {
			key, value, both := strings.Cut(f, "=")
			if !both {
				value = key
			}
			if len(value) > short && !slices.Contains(transports, value) {
				words = append(words, value)
			}
		}
	}
	return words
}

// transports are words of bridge lines that tell nobody apart.
var transports = []string{"snowflake", "webtunnel", "meek_lite", "conjure"}

// part is one file of a bundle.
type part struct{ name, text string }

// rulesetPart is the one that nft prints.
const rulesetPart = "nft.txt"

// parts gathers the files. What cannot be had says why in its place.
func (g *gathering) parts(ctx context.Context, report *doctor.Report) []part {
	out := []part{
		{"README.txt", "What torbpf doctor --bundle has gathered. Public addresses, hardware addresses, names of hosts, devices, people and\nsites, bridges and keys are replaced, the same one by the same word in all files. Look through it before you post it.\n"},
		{"doctor.json", encoded(report, nil)},
		{"versions.txt", g.versions(ctx)},
		{rulesetPart, listed(ctx, "nft", "-s", "list", "ruleset")},
		{"ip-rule.txt", listed(ctx, "ip", "rule") + listed(ctx, "ip", "-6", "rule")},
		{"ip-route.txt", listed(ctx, "ip", "route", "show", "table", "all") + listed(ctx, "ip", "-6", "route", "show", "table", "all")},
		{"ip-link.txt", listed(ctx, "ip", "-d", "link")},
		{"maps.txt", g.mapSizes()},
	}
	if g.facts.Plan != nil {
		out = append(out, part{"plan.txt", g.facts.Plan.String()})
	}
	if g.inForce {
		status, err := g.Status(ctx)
		out = append(out, part{"status.json", encoded(status, err)}, part{"state.json", contents(g.statePath())})
	}
	for _, log := range append(g.journalPaths(), g.alarmsPath(), g.auditPath(), g.sentryLog(), filepath.Join(g.dir, "proxy.log")) {
		if text := contents(log); text != "" {
			out = append(out, part{filepath.Join("logs", filepath.Base(log)), text})
		}
	}
	if g.ns.Name == host.FirstNamespace {
		out = append(out, part{"logs/service.txt", listed(ctx, "journalctl", "--unit=torbpf", "--lines=1000", "--no-pager", "--no-hostname", "--output=short-iso")})
	}
	return out
}

func encoded(v any, err error) string {
	if err == nil {
		var text []byte
		if text, err = json.MarshalIndent(v, "", "  "); err == nil {
			return string(text) + "\n"
		}
	}
	return fmt.Sprintf("not shown: %v\n", err)
}

// contents of a file of torbpf's, which is bounded by who writes it; "" where there is none.
func contents(path string) string {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("not shown: %v\n", err)
	}
	return string(text)
}

func (g *gathering) versions(ctx context.Context) string {
	var out strings.Builder
	fmt.Fprintf(&out, "torbpf %s\nLinux %s\ntor %s\n", g.version, g.facts.Kernel.Release, g.facts.Tor.Version)
	out.WriteString(listed(ctx, "nft", "--version"))
	out.WriteString(listed(ctx, "ip", "-Version"))
	out.WriteString(contents("/etc/os-release"))
	return out.String()
}

func (g *gathering) mapSizes() string {
	sizes, err := g.pins().MapSizes()
	if err != nil {
		return fmt.Sprintf("not shown: %v\n", err)
	}
	var out strings.Builder
	for _, s := range sizes {
		entries := "-"
		if s.Counted {
			entries = fmt.Sprint(s.Entries)
		} else if s.Entries > 0 {
			entries = fmt.Sprintf("%d or more", s.Entries)
		}
		fmt.Fprintf(&out, "%-20s %-16s %s of %d\n", s.Name, s.Type, entries, s.Max)
	}
	return out.String()
}
