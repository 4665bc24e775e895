package rig

import (
	"errors"
	"fmt"
	"time"
)

// Burst is what became of the frames that were sent at once.
type Burst struct {
	Sent  uint64
	Right uint64 // arrived as they should
	Wrong uint64 // arrived otherwise
	Took  time.Duration
}

// Nanoseconds is the time of one frame on the whole path.
func (b Burst) Nanoseconds() float64 { return float64(b.Took.Nanoseconds()) / float64(b.Sent) }

// Send sends frames from the device of a path, or from the far end what answers it. The
// path's Receive is on.
func (d *Driver) Send(p *Path, g *Generator, frames int) (b Burst, err error) {
	from, index, to := p.Device, p.deviceIndex, p.sink
	if g.back {
		from, index, to = p.Far, p.farIndex, p.backSink
	}
	made, err := g.count()
	if err != nil {
		return b, err
	}
	before, err := to.count()
	if err != nil {
		return b, err
	}
	err = d.in(from, func() error {
		cpu, real, err := d.sendTimed(g, index, frames)
		b.Took = cpu
		if d.Clock == ClockReal {
			b.Took = real
		}
		return err
	})
	if err != nil {
		return b, err
	}
	after, err := to.settled()
	if err != nil {
		return b, err
	}
	if b.Sent, err = g.count(); err != nil {
		return b, err
	}
	b.Sent -= made
	b.Right, b.Wrong = after.Right-before.Right, after.Wrong-before.Wrong
	return b, nil
}

// Answer has the far end answer each flow of some traffic once, as servers do: conntrack
// takes what nobody answers for new for ever. All answers have to reach the device.
func (d *Driver) Answer(p *Path, t Traffic) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("answer %d flows: %w", t.Flows, err)
		}
	}()
	t.Back = p.outside()
	g, err := NewGenerator(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	got, err := d.Send(p, g, int(t.Flows))
	if err != nil {
		return err
	}
	if got.Right < uint64(t.Flows) || got.Wrong > 0 {
		return fmt.Errorf("%d answers reached the device, %d with a wrong address", got.Right, got.Wrong)
	}
	return nil
}
