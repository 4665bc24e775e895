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
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/redact"
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
		text := p.redacted(redactor)
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

// part is one file of a bundle.
type part struct{ name, text string }

// rulesetPart is the one that nft prints, and servicePart what the service manager has kept.
const (
	rulesetPart = "nft.txt"
	servicePart = "logs/service.txt"
)

// logPart is where a log of torbpf's is.
func logPart(path string) string { return filepath.Join("logs", filepath.Base(path)) }

// redacted is the text without secrets, each by what it is known to be.
func (p part) redacted(r *redact.Redactor) string {
	switch p.name {
	case rulesetPart:
		return r.Ruleset(p.text, "table inet "+plan.Table)
	case logPart(auditName):
		return r.Audit(p.text)
	case logPart(journalName), logPart(journalName + olderEnd):
		return r.Events(p.text)
	case servicePart, logPart(sentryName), logPart(proxyName):
		return r.Log(p.text)
	}
	return r.Text(p.text)
}

// bundleReadme is for who reads a bundle, and for who is about to post it.
const bundleReadme = `What torbpf doctor --bundle has gathered.

Public addresses, hardware addresses, names of hosts, devices, people, sites, lists, apps and network namespaces,
comments, bridges and keys are replaced, the same one by the same word in all files. Words in logs that torbpf
itself never says are replaced, too. Times are in UTC.

What stays: private IPv4 addresses, ports, names of interfaces, and of tables, chains and sets of nftables, unless
one of those words is in them. Look through it before you post it.
`

// parts gathers the files. What cannot be had says why in its place.
func (g *gathering) parts(ctx context.Context, report *doctor.Report) []part {
	out := []part{
		{"README.txt", bundleReadme},
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
	for _, log := range append(g.journalPaths(), g.alarmsPath(), g.auditPath()+".1", g.auditPath(), g.sentryLog(), g.proxyLog()) {
		if text := contents(log); text != "" {
			out = append(out, part{logPart(log), text})
		}
	}
	if g.ns.Name == host.FirstNamespace {
		out = append(out, part{servicePart, listed(ctx, "journalctl", "--utc", "--unit=torbpf", "--lines=1000", "--no-pager", "--no-hostname", "--output=short-iso")})
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
