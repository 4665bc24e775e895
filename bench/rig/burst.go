package rig

import "time"

// Burst is what became of the frames that were sent at once.
type Burst struct {
	Sent  uint64
	Right uint64 // arrived as they should
	Wrong uint64 // arrived otherwise
	Took  time.Duration
}

// Nanoseconds is the time of one frame on the whole path.
func (b Burst) Nanoseconds() float64 { return float64(b.Took.Nanoseconds()) / float64(b.Sent) }

// Send sends frames from the device of a path, whose Receive is on.
func (d *Driver) Send(p *Path, g *Generator, frames int) (b Burst, err error) {
	made, err := g.count()
	if err != nil {
		return b, err
	}
	before, err := p.sink.count()
	if err != nil {
		return b, err
	}
	err = d.in(p.Device, func() error {
		cpu, real, err := d.sendTimed(p, g, frames)
		b.Took = cpu
		if d.Clock == ClockReal {
			b.Took = real
		}
		return err
	})
	if err != nil {
		return b, err
	}
	after, err := p.sink.settled()
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
