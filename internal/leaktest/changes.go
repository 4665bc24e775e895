package leaktest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/torbpf/torbpf/nft"
)

// changeFaults are torbpf's own commands, every instant of them.
func changeFaults() []Fault {
	return []Fault{
		{Name: "attach for the first time", Fresh: true, Once: true, Inflict: attachFirst},
		{Name: "attach again (reload, upgrade), ten times", Inflict: repeat(10, func(b *Bench, _ int) error { return b.torbpf("attach", "--no-wait") })},
		{Name: "exclusions added and removed, ten times", Inflict: repeat(10, func(b *Bench, i int) error {
			return b.torbpf("exclude", []string{"add", "del"}[i%2], "198.51.100.0/24")
		})},
		{Name: "source and mark exclusions changed, ten times", Inflict: repeat(10, func(b *Bench, i int) error {
			action := []string{"add", "del"}[i%2]
			if slices.Contains(b.args, "tproxy") { // marks come too late for that
				return b.torbpf("exclude", action, "--source", "192.168.50.99")
			}
			return errors.Join(b.torbpf("exclude", action, "--source", "192.168.50.99"), b.torbpf("exclude", action, "--mark", "0x100"))
		})},
		{Name: "second LAN attached and detached, five times", Once: true, Inflict: repeat(10, func(b *Bench, i int) error {
			if i%2 == 0 {
				return b.torbpf("attach", lan2, "--no-wait")
			}
			return b.torbpf("detach", lan2)
		})},
		{Name: "from tcx to clsact and back, three times", Once: true, Inflict: repeat(6, func(b *Bench, i int) error {
			return b.torbpf("attach", "--no-wait", fmt.Sprintf("--clsact=%t", i%2 == 0))
		})},
		{Name: "ports of tor and sentry changed and back", Once: true, Inflict: repeat(2, func(b *Bench, i int) error {
			ports := [][]string{{"19040", "19053", "19054"}, {"9040", "9053", "9054"}}[i]
			return b.torbpf("attach", "--no-wait", "--trans-port", ports[0], "--dns-port", ports[1], "--resolver-port", ports[2])
		})},
		{Name: "detach --all", Ends: true, Once: true, Inflict: detachAll},
		{Name: "detach --all (clsact)", Args: clsact, Ends: true, Once: true, Inflict: detachAll},
		{Name: "detach of the last LAN by name", Ends: true, Once: true, Inflict: func(b *Bench) error {
			return b.detachWatched("detach", b.lan)
		}},
	}
}

// attempts is how often a command is tried: a tor that is flooded through the gate
// that we hold open may not answer it in time. What it did is then undone, under
// load, which is as good a change as any.
const attempts = 3

func repeat(times int, change func(*Bench, int) error) func(*Bench) error {
	return func(b *Bench) error {
		for i := range times {
			var err error
			for range attempts {
				if err = change(b, i); err == nil {
					break
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// attachFirst closes what is open: from when the command returns nothing leaves,
// though flows of all kinds are under way. What the router's own resolver was asked
// before it may still ask for.
func attachFirst(b *Bench) error {
	if err := b.attach(); err != nil {
		return err
	}
	err := await(b.ctx, "the router's resolver to be idle", func() error {
		if n := b.Lab.RouterDNS.Busy(); n > 0 {
			return fmt.Errorf("%d questions are open", n)
		}
		return nil
	})
	b.begins = time.Now()
	return errors.Join(err, b.holdGate())
}

func detachAll(b *Bench) error { return b.detachWatched("detach", "--all") }

// detachWatched detaches while the table is asked for without pause, from before the
// command begins. As long as it is there, whatever leaves is a leak; it is the last of
// what blocks to go.
func (b *Bench) detachWatched(args ...string) error {
	seen := make(chan struct{})
	present := make(chan error, 1)
	go func() {
		present <- b.Lab.Router.Do(func() (err error) {
			b.ends, err = lastPresent(seen)
			return err
		})
	}()
	select {
	case <-seen:
	case err := <-present:
		return err
	}
	err := b.torbpf(args...)
	return errors.Join(err, <-present)
}

// lastPresent asks for our table until it is gone, and returns when it was last
// known to be there: before that answer was asked for. It closes seen at the first
// such answer; a table that was never there is an error, for then no instant is known.
func lastPresent(seen chan<- struct{}) (time.Time, error) {
	var last time.Time
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		asked := time.Now()
		there, err := nft.Present()
		if err != nil {
			return last, err
		}
		if !there {
			if last.IsZero() {
				return last, errors.New("the nft table was not there before the detach")
			}
			return last, nil
		}
		if last.IsZero() {
			close(seen)
		}
		last = asked
	}
	return last, errors.New("the nft table stayed")
}
