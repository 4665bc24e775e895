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

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// Where pins are: torbpf's own, and those of a datapath without the rest of it.
const (
	pinRoot   = "/run/torbpf/bpf"
	aloneRoot = "/run/torbpf-bench"
)

// attach puts the LAN of a path on Tor with the user's own masquerading beneath it, and
// the direct prefix excluded. It returns the seconds that attach has taken. tor has no network to
// reach, so it stays as it is at the start.
func attach(ctx context.Context, p *Path, program string, flags ...string) (seconds float64, err error) {
	if err := loadMasquerade(ctx, p); err != nil {
		return 0, err
	}
	torrc, err := leaktest.LoneTorrc(p.lab)
	if err != nil {
		return 0, err
	}
	args := append([]string{"attach", lan, "--exclude", Direct.String(), "--no-wait", "--torrc", torrc, "--json"}, flags...)
	out, err := p.Router.Command(ctx, program, args...).Output()
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
func attachServing(ctx context.Context, p *Path, program string, flags ...string) error {
	if _, err := attach(ctx, p, program, flags...); err != nil {
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

// attachAlone loads the datapath without anything else of torbpf, and takes the guards away
// again: what is left protects nobody, but shows what the program at the LAN costs by itself.
func attachAlone(ctx context.Context, p *Path) error {
	if err := loadMasquerade(ctx, p); err != nil {
		return err
	}
	if err := p.Router.Do(loadDatapath); err != nil {
		return err
	}
	p.pinRoot = aloneRoot
	return p.removeLinks(func(name string) bool { return !strings.HasPrefix(name, "lan-") })
}

// loadDatapath loads and attaches what the plan for this namespace says, with the gate open.
func loadDatapath() error {
	facts, err := host.Read()
	if err != nil {
		return fmt.Errorf("read the host: %w", err)
	}
	cfg := config.Default()
	cfg.Interfaces = []string{lan}
	cfg.Rules = config.DirectPrefixes(config.KindDestination, Direct)
	wanted, err := plan.Make(cfg, facts)
	if err != nil {
		return err
	}
	ns, err := host.Namespace()
	if err != nil {
		return err
	}
	root, err := loader.Mount(aloneRoot)
	if err != nil {
		return err
	}
	d := loader.Open(loader.Options{Root: root, Namespace: ns.Name})
	return Serve(d, wanted)
}

// Serve attaches the programs of a plan and opens the gate, as if its tor were ready.
func Serve(d *loader.Datapath, p *plan.Plan) error {
	g, err := d.ApplyGuards(p)
	if err != nil {
		return err
	}
	if err := errors.Join(g.AttachLANs(), g.Close()); err != nil {
		return err
	}
	gates, err := d.Gates()
	if err != nil {
		return err
	}
	defer gates.Close()
	return gates.Put(uint32(0), abi.DatapathGate{Open: 1})
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

// pins returns the path of pins of the router's torbpf.
func (p *Path) pins(names ...string) (string, error) {
	var ns string
	err := p.Router.Do(func() error {
		n, err := host.Namespace()
		ns = n.Name
		return err
	})
	return filepath.Join(append([]string{p.pinRoot, ns}, names...)...), err
}
