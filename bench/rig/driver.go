package rig

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// Driver is the thread that everything timed runs on. It has one CPU, and where it may
// it is of real-time priority, so that nothing else of the machine runs there meanwhile.
type Driver struct {
	CPU      int
	Realtime bool
	Clock    string // ClockCPU or ClockReal, see Calibrate

	jobs chan func() error
	done chan error
}

// NewDriver starts the thread on the last CPU that this process may use.
func NewDriver() (*Driver, error) {
	d := &Driver{jobs: make(chan func() error), done: make(chan error)}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range d.jobs {
			d.done <- job()
		}
	}()
	if err := d.do(d.prepare); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the thread.
func (d *Driver) Close() { close(d.jobs) }

func (d *Driver) do(job func() error) error {
	d.jobs <- job
	return <-d.done
}

// in runs a job in the namespace of a node.
func (d *Driver) in(n *testnet.Node, job func() error) error {
	return d.do(func() error {
		ns, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace of %s: %w", n.Name, err)
		}
		return job()
	})
}

func (d *Driver) prepare() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("ask for the CPUs of this process: %w", err)
	}
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			d.CPU = cpu
		}
	}
	one.Set(d.CPU)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("take CPU %d: %w", d.CPU, err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, &attr, 0); err == nil {
		d.Realtime = true
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return fmt.Errorf("take priority: %w", err)
	}
	return nil
}
