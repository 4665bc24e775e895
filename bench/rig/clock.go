package rig

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// Clocks of a driver.
const (
	ClockCPU  = "cpu"  // of the thread: what the CPU does elsewhere, a hypervisor's other guests included, does not count
	ClockReal = "real" // where that leaves out softirq time (CONFIG_IRQ_TIME_ACCOUNTING)
)

// Calibrate chooses the clock. It sends frames that are dropped where they arrive. Nearly all of that is
// softirq time, so a clock that leaves it out is far behind the kernel's own.
func (d *Driver) Calibrate(p *Path) error {
	const bursts, frames, enough = 9, 20_000, 0.6
	g, err := NewGenerator(Traffic{Protocol: unix.IPPROTO_UDP, To: Direct, Flows: 1})
	if err != nil {
		return err
	}
	defer g.Close()
	var share []float64
	for range bursts {
		err := d.in(p.Device, func() error {
			cpu, real, err := d.sendTimed(g, p.deviceIndex, frames)
			share = append(share, float64(cpu)/float64(real))
			return err
		})
		if err != nil {
			return fmt.Errorf("choose a clock: %w", err)
		}
	}
	d.Clock = ClockCPU
	if slices.Max(share) < enough {
		d.Clock = ClockReal
	}
	return nil
}

// sendTimed sends frames from the calling thread and tells the CPU time that it took, and
// how long the kernel says that it was at it.
func (d *Driver) sendTimed(g *Generator, ifindex, frames int) (cpu, real time.Duration, err error) {
	begin, err := now(unix.CLOCK_THREAD_CPUTIME_ID)
	if err != nil {
		return 0, 0, err
	}
	if real, err = g.send(ifindex, frames); err != nil {
		return 0, 0, err
	}
	end, err := now(unix.CLOCK_THREAD_CPUTIME_ID)
	return end - begin, real, err
}

// time runs a job in the namespace of a node and tells by the driver's clock how long it took.
func (d *Driver) time(n *testnet.Node, job func() error) (took time.Duration, err error) {
	clock := int32(unix.CLOCK_THREAD_CPUTIME_ID)
	if d.Clock == ClockReal {
		clock = unix.CLOCK_MONOTONIC
	}
	err = d.in(n, func() error {
		begin, err := now(clock)
		if err != nil {
			return err
		}
		if err := job(); err != nil {
			return err
		}
		end, err := now(clock)
		took = end - begin
		return err
	})
	return took, err
}

func now(clock int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// testRun is the part of union bpf_attr for BPF_PROG_TEST_RUN. cilium/ebpf has no way to
// ask for live frames and for the duration at once.
type testRun struct {
	program, result         uint32
	dataInSize, dataOutSize uint32
	dataIn                  unsafe.Pointer
	dataOut                 uint64
	repeat, duration        uint32
	contextInSize           uint32
	contextOutSize          uint32
	contextIn               unsafe.Pointer
	contextOut              uint64
	flags, cpu, batchSize   uint32
	_                       uint32
}

// xdpContext is struct xdp_md of linux/bpf.h.
type xdpContext struct {
	data, dataEnd, dataMeta, ingressIfindex, rxQueueIndex, egressIfindex uint32
}

// runLive makes a program send frames by an interface of the calling thread's namespace,
// and tells the time that the kernel has spent on all of them.
func runLive(program *ebpf.Program, frame []byte, ifindex, frames int) (time.Duration, error) {
	context := xdpContext{dataEnd: uint32(len(frame)), ingressIfindex: uint32(ifindex)}
	attr := testRun{
		program: uint32(program.FD()), dataIn: unsafe.Pointer(&frame[0]), dataInSize: uint32(len(frame)),
		contextIn: unsafe.Pointer(&context), contextInSize: uint32(unsafe.Sizeof(context)),
		repeat: uint32(frames), flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno == 0 {
			return time.Duration(attr.duration) * time.Duration(frames), nil
		}
		if errors.Is(errno, unix.EINVAL) {
			return 0, fmt.Errorf("live frames need Linux 5.18: %w", errno)
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}
