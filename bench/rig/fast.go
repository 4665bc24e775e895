package rig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// permitFast attaches with the fast path, which is let be used as by `torbpf run`; that would
// run beside what is timed. With early refusal, too, UDP goes as frames.
func permitFast(program string, flags ...string) func(context.Context, *Path) error {
	return func(ctx context.Context, p *Path) error {
		if err := attachServing(ctx, p, program, append(flags, "--fastpath", "auto")...); err != nil {
			return err
		}
		return p.datapath(func(d *loader.Datapath) error {
			h, err := host.ReadFast()
			if err != nil {
				return err
			}
			var ports []plan.Link
			for _, l := range h.Links {
				if len(flags) > 0 && (l.Name == lan || l.Name == wan) {
					ports = append(ports, l)
				}
			}
			return d.PermitFast(0, time.Hour, ports...)
		})
	}
}

// hasFast tells whether a configuration has a fast path.
func hasFast(config string) bool { return config == Fast || config == Frames }

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
		if float64(after-before) > nearly*float64(burst.Sent) {
			return nil
		}
	}
	return errors.New("packets do not take the fast path")
}

// fastPackets counts what has taken the fast path, in both directions.
func (p *Path) fastPackets() (packets uint64, err error) {
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
