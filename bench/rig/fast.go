package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
)

// permitFast attaches with the fast path. With early refusal, too, UDP goes as frames.
func permitFast(program string, flags ...string) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		if err := attachServing(ctx, p, program, append(flags, "--fastpath", "auto")...); err != nil {
			return err
		}
		return p.permit(len(flags) > 0)
	}
}

// permit lets the fast path be used, for an hour, as `torbpf run` does; that would run beside what
// is timed.
func (p *Path) permit(frames bool) error {
	return p.datapath(func(d *loader.Datapath) error {
		h, err := host.ReadFast()
		if err != nil {
			return err
		}
		var ports []plan.Link
		for _, l := range h.Links {
			if frames && (l.Name == lan || l.Name == wan) {
				ports = append(ports, l)
			}
		}
		return d.PermitFast(0, time.Hour, ports...)
	})
}

// fastFlows is more flows than any row has that is to take the fast path whole, and less than a CPU's table of
// it holds; of more flows some go the slow way.
const fastFlows = 1024

// hasFast tells whether a configuration has a fast path, of whichever kind.
func hasFast(config string) bool { return config == Fast || config == Frames || config == Flowtable }

// slowRules count what goes through rules though there is a flowtable.
const slowRules = `
table inet slow {
	counter seen {}
	chain forward { type filter hook forward priority 0; counter name seen; }
}
`

// accelerate attaches with a flowtable, where the kernel has any.
func accelerate(program string) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		if err := attachServing(ctx, p, program, "--fastpath", "flowtable"); err != nil {
			return err
		}
		var there bool
		err := p.Router.Do(func() (err error) {
			there, err = nft.Accelerates()
			return err
		})
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("accelerate: %w: flowtables of nftables", kernel.ErrMissing)
		}
		return errors.Join(p.loadRules(ctx, slowRules), p.keepAccelerated())
	}
}

// keepAccelerated lets no flow leave the flowtable between two turns, where the kernel has a
// setting for it (Linux 5.14); else its first packet puts it back.
func (p *Path) keepAccelerated() error {
	for _, protocol := range []string{"udp", "tcp"} {
		err := p.Router.Sysctl("net.netfilter.nf_flowtable_" + protocol + "_timeout=3600")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// datapath calls f with what the loader has pinned for the router.
func (p *Path) datapath(f func(*loader.Datapath) error) error {
	return p.Router.Do(func() error {
		ns, err := host.Namespace()
		if err != nil {
			return err
		}
		return f(loader.Open(loader.Options{Root: p.pinRoot, Namespace: ns.Name}))
	})
}

// settle sends bursts until all that is sent takes the fast path: conntrack takes a flow of
// UDP for a settled one when it has gone on for two seconds.
func (d *Driver) settle(p *Path, b *bursts) error {
	const patience, nearly = 10 * time.Second, 0.9
	for end := time.Now().Add(patience); time.Now().Before(end); {
		before, err := p.fastPackets()
		if err != nil {
			return err
		}
		burst, err := d.Send(p, b.generator, b.frames)
		if err != nil {
			return err
		}
		after, err := p.fastPackets()
		if err != nil {
			return err
		}
		fast := after - before
		if p.Config.Name == Flowtable {
			fast = burst.Sent - fast
		}
		if float64(fast) > nearly*float64(burst.Sent) {
			return nil
		}
	}
	return errors.New("packets do not take the fast path")
}

// fastPackets counts what has taken the fast path, in both directions; or, where a flowtable is
// it, what has not.
func (p *Path) fastPackets() (packets uint64, err error) {
	if p.Config.Name == Flowtable {
		return p.slowPackets()
	}
	err = p.datapath(func(d *loader.Datapath) error {
		f, err := d.Fast()
		packets = f.Out + f.In
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count what takes the fast path: %w", err)
	}
	return packets, nil
}

var packetsPattern = regexp.MustCompile(`packets (\d+)`)

func (p *Path) slowPackets() (uint64, error) {
	out, err := p.Router.Run(context.Background(), "nft", "list", "counter", "inet", "slow", "seen")
	if err != nil {
		return 0, fmt.Errorf("count what goes through rules: %w", err)
	}
	found := packetsPattern.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("count what goes through rules: nft says %q", out)
	}
	return strconv.ParseUint(found[1], 10, 64)
}
