package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mirrorVariable names another mirror than the one that this host's apt uses: the address
// below which there are the folders debian and debian-security.
const mirrorVariable = "TORBPF_VM_MIRROR"

// keyring is of Debian's package debian-archive-keyring.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// listsLast is how long package lists are taken for new.
const listsLast = 7 * 24 * time.Hour

// packages are those of some suites of Debian, by lists of our own: nothing is installed,
// and this host's apt knows nothing of it.
type packages struct {
	dir  string
	arch string
}

// suite is a suite, and which archive it is in.
type suite struct{ name, archive string }

// withUpdates returns a suite and its security updates.
func withUpdates(name string) []suite {
	if strings.Contains(name, "-") || name == "sid" {
		return []suite{{name, "debian"}}
	}
	return []suite{{name, "debian"}, {name + "-security", "debian-security"}}
}

// openPackages reads the lists of the suites, or those in dir if they are new enough. The
// packages that status names are taken for installed.
func openPackages(ctx context.Context, dir, arch, status string, suites ...suite) (*packages, error) {
	p := &packages{dir: dir, arch: arch}
	done := filepath.Join(dir, "done")
	if info, err := os.Stat(done); err == nil && time.Since(info.ModTime()) < listsLast {
		return p, nil
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("check Debian's signatures: %w: install debian-archive-keyring", err)
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, s := range suites {
		mirror, err := findMirror(ctx, s.archive)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", keyring, mirror, s.name)
	}
	_ = os.Remove(filepath.Join(dir, "state/status"))
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources.String()), 0o644),
		os.Symlink(status, filepath.Join(dir, "state/status")),
	)
	if err != nil {
		return nil, err
	}
	if _, err := p.apt(ctx, "", "apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return nil, err
	}
	return p, os.WriteFile(done, nil, 0o644)
}

// nothingInstalled is a status of a host without packages.
const nothingInstalled = "/dev/null"

// apt runs one of apt's programs on these lists.
func (p *packages) apt(ctx context.Context, dir, program string, args ...string) (string, error) {
	var options []string
	for _, o := range []string{
		"Dir::Etc::SourceList=" + p.dir + "/sources.list", "Dir::Etc::SourceParts=/dev/null", "Dir::State=" + p.dir + "/state",
		"Dir::State::Status=" + p.dir + "/state/status", "Dir::Cache=" + p.dir + "/cache", "APT::Sandbox::User=" + userName(),
		"Acquire::Languages=none", "Acquire::Retries=3", "APT::Architecture=" + p.arch, "APT::Architectures=" + p.arch,
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "Debug::NoLocking=1",
	} {
		options = append(options, "-o", o)
	}
	return output(ctx, dir, program, append(options, args...)...)
}

// output runs a program and returns what it prints.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%w: Debian's packages are read with apt and dpkg; name a folder with an unpacked kernel instead, and install qemu 9 or newer", err)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, args[len(args)-1], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// userName is whom apt is to become for its downloads: whoever runs this.
func userName() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return ""
}

var policySource = regexp.MustCompile(`(?m)^ *-?\d+ (\S+?)/? [^ /]+/\S+ \S+ Packages$`)

// findMirror returns the mirror of an archive that this host uses.
func findMirror(ctx context.Context, archive string) (string, error) {
	if mirror := os.Getenv(mirrorVariable); mirror != "" {
		return strings.TrimSuffix(mirror, "/") + "/" + archive, nil
	}
	policy, err := output(ctx, "", "apt-cache", "policy")
	if err != nil {
		return "", err
	}
	for _, m := range policySource.FindAllStringSubmatch(policy, -1) {
		if strings.HasSuffix(m[1], "/"+archive) {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("this host's apt uses no mirror of %s: set %s to the address of one", archive, mirrorVariable)
}

// names lists the packages whose names begin so.
func (p *packages) names(ctx context.Context, prefix string) ([]string, error) {
	out, err := p.apt(ctx, "", "apt-cache", "pkgnames", prefix)
	return strings.Fields(out), err
}

// has tells whether a package can be downloaded; names lists what others only speak of as well.
func (p *packages) has(ctx context.Context, name string) (bool, error) {
	out, err := p.apt(ctx, "", "apt-cache", "madison", name)
	return out != "", err
}

// unpack downloads a package and unpacks it below dir.
func (p *packages) unpack(ctx context.Context, name, dir string) (control string, err error) {
	tmp, err := os.MkdirTemp(p.dir, "deb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if _, err := p.apt(ctx, tmp, "apt-get", "-qq", "download", name); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("download %s: %d files came: %w", name, len(files), err)
	}
	if _, err := output(ctx, "", "dpkg-deb", "-x", files[0], dir); err != nil {
		return "", err
	}
	return output(ctx, "", "dpkg-deb", "-f", files[0], "Version", "Depends")
}

// unpackAll downloads packages and whatever they need and the host lacks, and unpacks it. An
// upgrade of what the host has is left out.
func (p *packages) unpackAll(ctx context.Context, release, dir string, names ...string) error {
	args := append([]string{"-qq", "-y", "--no-install-recommends", "-t", release, "install"}, names...)
	plan, err := p.apt(ctx, "", "apt-get", append([]string{"-s"}, args...)...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(plan) {
		f := strings.Fields(line) // Inst NAME [INSTALLED] (VERSION …
		if len(f) < 3 || f[0] != "Inst" || strings.HasPrefix(f[2], "[") {
			continue
		}
		if _, err := p.unpack(ctx, f[1]+"="+strings.TrimPrefix(f[2], "("), dir); err != nil {
			return err
		}
	}
	return nil
}
