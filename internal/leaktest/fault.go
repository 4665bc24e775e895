package leaktest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault takes something away from torbpf, as a crash or a careless administrator
// would, or changes the host under it.
type Fault struct {
	Name string
	Args []string // of attach, beside the interface

	// Prepare changes the host before torbpf is attached; nil for nothing.
	Prepare func(*Bench) error
	Inflict func(*Bench) error

	// Lacks tells why this kernel cannot have the fault; nil or "" where it can.
	Lacks func(*Bench) string

	// Fresh: nothing is attached before; Inflict does it, and sets Bench.begins.
	Fresh bool
	// Ends: Inflict detaches, and sets Bench.ends.
	Ends bool
	// Forgotten: what Prepare does has the kernel forget the connections of before, as
	// masquerading does when its interface goes down. Nobody knows them at attach, so
	// their far ends are answered as by any closed port.
	Forgotten bool
	// Lingers is how long after the repair it still shows: the kernel takes three
	// seconds to say that a neighbour was not to be found.
	Lingers time.Duration
	// Once: not for the soak, which neither prepares nor detaches.
	Once bool
	// Own: it is the router itself that tries everything, and client mode that is on.
	Own bool
	// Unframed: the guard of an uplink is gone, which alone sees the frames that root sends
	// by packet sockets; so none are sent.
	Unframed bool
	// Fast: flows of a client that are direct take the fast path meanwhile, and are to end with their exclusion,
	// which ends before the repair.
	Fast bool

	part string // of torbpf that is gone; two faults of one part are no pair
}

// Faults is the table.
func Faults() []Fault {
	return slices.Concat(layerFaults(), linkFaults(), uplinkFaults(), hostFaults(), storageFaults(), changeFaults(), ownFaults(), handOverFaults())
}

// layerFaults is the part of the table that takes away what torbpf is made of: processes,
// programs, tables, and pairs of these.
func layerFaults() []Fault {
	return slices.Concat(killFaults(), tcFaults(), tableFaults(), pairFaults())
}

// steps joins the steps of a fault.
func steps(list ...func(*Bench) error) func(*Bench) error {
	return func(b *Bench) error {
		for _, step := range list {
			if err := step(b); err != nil {
				return err
			}
		}
		return nil
	}
}

// lines is a fault of command lines in the router.
func lines(commands ...string) func(*Bench) error {
	return func(b *Bench) error { return b.run(commands...) }
}

// together is several faults at once.
func together(args []string, faults ...Fault) Fault {
	f := Fault{Args: args}
	var names []string
	var inflict, prepare []func(*Bench) error
	for _, each := range faults {
		names = append(names, each.Name)
		inflict = append(inflict, each.Inflict)
		f.Once, f.Unframed = f.Once || each.Once, f.Unframed || each.Unframed
		f.Lacks = either(f.Lacks, each.Lacks)
		if each.Prepare != nil {
			prepare = append(prepare, each.Prepare)
		}
	}
	f.Name = strings.Join(names, " + ")
	f.Inflict = steps(inflict...)
	if len(prepare) > 0 {
		f.Prepare = steps(prepare...)
	}
	return f
}

// pairFaults: every pair of parts gone at once, for each way to attach; then each
// of the three great parts after another has been repaired.
func pairFaults() []Fault {
	var out []Fault
	for _, mode := range []struct {
		name   string
		args   []string
		faults []Fault
	}{
		{"tcx", nil, []Fault{lanPinsGone, tableGone, rulesetGone, lanRenamed, allKilled, forwardGone}},
		{"clsact", []string{"--clsact"}, []Fault{filterGone, qdiscGone, tableGone, rulesetGone, lanRenamed, allKilled}},
		{"fast path", []string{"--fastpath", "auto"}, []Fault{lanPinsGone, rulesetGone, lanRenamed, allKilled}},
		{"fast path by XDP", []string{"--fastpath", "auto", "--early-refusal", "native"}, []Fault{lanPinsGone, rulesetGone, allKilled}},
		{flowtable, []string{"--fastpath", flowtable}, []Fault{lanPinsGone, rulesetGone, lanRenamed, allKilled}},
		{"early refusal", []string{"--early-refusal", "native"}, []Fault{lanPinsGone, rulesetGone, lanRenamed, allKilled}},
		{"four tors, of which the clients use two", []string{"--tor-instances", "4"}, []Fault{lanPinsGone, rulesetGone, allKilled}},
	} {
		for i, first := range mode.faults {
			for _, second := range mode.faults[i+1:] {
				if first.part == second.part {
					continue
				}
				f := together(mode.args, first, second)
				f.Name = mode.name + ": " + f.Name
				f.Once, f.Fast = true, slices.Contains(mode.args, "--fastpath")
				if mode.name == flowtable {
					f.Lacks = either(f.Lacks, lacksFlowtable)
				}
				out = append(out, f)
			}
		}
	}
	great := []Fault{lanPinsGone, tableGone, allKilled}
	for _, first := range great {
		for _, second := range great {
			if first.part != second.part {
				out = append(out, afterRepair(first, second))
			}
		}
	}
	// Each knows what the other has lost.
	out = append(out,
		afterRepair(rulesetGone, allPinsGone), afterRepair(allPinsGone, rulesetGone),
		afterRepair(afterRepair(rulesetGone, allPinsGone), rulesetGone))
	return append(out,
		together(nil, wanReplaced, lanPinsGone), together(nil, wanReplaced, rulesetGone), together(nil, wanReplaced, allKilled),
		together(nil, secondUplink, lanPinsGone), together(nil, secondUplink, rulesetGone),
		together(nil, subnetGone, lanPinsGone), together(nil, subnetGone, rulesetGone), together(nil, subnetGone, allKilled),
		together(nil, wgRules, lanPinsGone), together(nil, wgRules, tableGone),
		together(nil, foreignAhead, tableGone), together(nil, lanReplaced, allKilled),
	)
}

// either tells what a kernel lacks of two faults, of which nil needs nothing.
func either(first, second func(*Bench) string) func(*Bench) string {
	if first == nil {
		return second
	}
	return func(b *Bench) string {
		why := first(b)
		if why == "" && second != nil {
			why = second(b)
		}
		return why
	}
}

// afterRepair is one fault, repaired, and then another.
func afterRepair(first, second Fault) Fault {
	return Fault{
		Lacks: either(first.Lacks, second.Lacks),
		Name:  fmt.Sprintf("%s, repaired, then %s", first.Name, second.Name),
		Inflict: steps(first.Inflict, func(b *Bench) error { return b.torbpf("attach", "--no-wait") },
			func(b *Bench) error {
				b.letGateGo() // the repair may have brought another gate
				return b.holdGate()
			}, second.Inflict),
	}
}
