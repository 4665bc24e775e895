package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/leaktest"
)

// attach puts the LAN of a path on Tor with the user's own masquerading beneath it, and
// the direct prefix excluded. It returns the seconds that attach has taken. tor has no network to
// reach, so it stays as it is at the start.
func attach(ctx context.Context, p *Path, program string) (seconds float64, err error) {
	if err := loadMasquerade(ctx, p); err != nil {
		return 0, err
	}
	torrc, err := leaktest.LoneTorrc(p.lab)
	if err != nil {
		return 0, err
	}
	out, err := p.Router.Command(ctx, program, "attach", lan, "--exclude", Direct.String(), "--no-wait", "--torrc", torrc, "--json").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return 0, fmt.Errorf("attach: %w", err)
	}
	var result struct{ Seconds float64 }
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, fmt.Errorf("read what attach says: %w", err)
	}
	return result.Seconds, nil
}

// attachServing attaches and has clients served without tor: its processes are ended, and
// the gate is opened, which stays as it is.
func attachServing(ctx context.Context, p *Path, program string) error {
	if _, err := attach(ctx, p, program); err != nil {
		return err
	}
	if err := p.Router.KillAll(); err != nil {
		return err
	}
	pin, err := p.pins("maps", abi.DatapathMapGates)
	if err != nil {
		return err
	}
	gates, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	defer gates.Close()
	return gates.Put(uint32(0), abi.DatapathGate{Open: 1})
}

// attachAlone attaches and takes away every layer but the programs at the LAN: what is left
// protects nobody, but shows what they cost by themselves.
func attachAlone(ctx context.Context, p *Path, program string) error {
	if err := attachServing(ctx, p, program); err != nil {
		return err
	}
	if err := p.removeLinks(func(name string) bool { return !strings.HasPrefix(name, "lan-") && !strings.HasPrefix(name, "out-") }); err != nil {
		return err
	}
	if err := p.removeRules(); err != nil {
		return err
	}
	_, err := p.Router.Run(ctx, "nft", "delete", "table", "inet", "torbpf")
	return err
}

// removeLinks detaches the programs whose links have such names.
func (p *Path) removeLinks(which func(string) bool) error {
	dir, err := p.pins("links")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, e := range entries {
		if which(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove link: %w", err)
			}
		}
	}
	return nil
}

// removeRules removes the ip rules by which packets of a LAN are blocked.
func (p *Path) removeRules() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := p.Router.Netlink().RuleList(family)
		if err != nil {
			return fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range rules {
			if r.IifName != lan {
				continue
			}
			if err := p.Router.Netlink().RuleDel(&r); err != nil {
				return fmt.Errorf("remove %v: %w", r, err)
			}
		}
	}
	return nil
}

// pins returns the path of pins of the router's torbpf.
func (p *Path) pins(names ...string) (string, error) {
	var ns string
	err := p.Router.Do(func() error {
		n, err := host.Namespace()
		ns = n.Name
		return err
	})
	return filepath.Join(append([]string{"/run/torbpf/bpf", ns}, names...)...), err
}
