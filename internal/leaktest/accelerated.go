package leaktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/testnet"
)

// excluded are servers to which flows of a client are direct, and fast.
var excluded = []netip.AddrPort{at(netip.MustParseAddr("51.22.0.80"), testnet.PortEcho), at(netip.MustParseAddr("2a0e:22::80"), testnet.PortEcho)}

// accelerated are flows that take the fast path, or are in a flowtable. They go on when their exclusion has been removed:
// from then on they are as much a leak as any other.
type accelerated struct {
	bench  *Bench
	kernel bool // by the kernel's flowtable
	cancel context.CancelFunc
	wg     sync.WaitGroup
	sent   []atomic.Int64 // of each flow
	ended  bool           // their exclusion
}

// serveExcluded has the internet answer at the addresses of these.
func (b *Bench) serveExcluded() error {
	echo := b.Lab.NewServices(b.Lab.Internet)
	for _, server := range excluded {
		add := "ip addr add " + server.Addr().String() + " dev lo"
		if server.Addr().Is6() {
			add += " nodad" // or it may not be bound to yet
		}
		if err := b.on(b.Lab.Internet, add); err != nil {
			return err
		}
		if err := echo.ServeUDPEcho(server); err != nil {
			return err
		}
	}
	return nil
}

// accelerate starts them, and waits until they are fast.
func (b *Bench) accelerate(kernel bool) error {
	ctx, cancel := context.WithCancel(b.ctx)
	a := &accelerated{bench: b, kernel: kernel, cancel: cancel, sent: make([]atomic.Int64, len(excluded))}
	b.fast = a
	for _, step := range []func() error{b.takeFrames, func() error { return b.exclude("add") }, a.permit} {
		if err := step(); err != nil {
			return err
		}
	}
	for i, server := range excluded {
		conn, err := b.Lab.Client1.Dial(ctx, "udp", server.String())
		if err != nil {
			return err
		}
		device := conn.LocalAddr().(*net.UDPAddr).AddrPort()
		b.watch.answered = append(b.watch.answered, peer{protocol: unix.IPPROTO_UDP, from: server, to: device})
		a.wg.Go(func() { a.talk(ctx, conn, &a.sent[i]) })
	}
	if kernel {
		return a.awaitFlowtable()
	}
	before, err := b.fastPackets()
	if err != nil {
		return err
	}
	const enough = 100
	return await(b.ctx, "flows to be fast", func() error {
		now, err := b.fastPackets()
		if err == nil && (now.Out < before.Out+enough || now.In < before.In+enough) {
			err = fmt.Errorf("it was %+v, and is %+v", before, now)
		}
		return err
	})
}

// talk goes on whatever becomes of what is sent.
func (a *accelerated) talk(ctx context.Context, conn net.Conn, sent *atomic.Int64) {
	defer conn.Close()
	for ctx.Err() == nil {
		if _, err := conn.Write([]byte("as fast as can be")); err == nil {
			sent.Add(1)
		}
		rest(ctx, time.Millisecond)
	}
}

// end removes the exclusion, and lets them go on. A fault may keep commands from working until it has been
// repaired: what is excluded is so until then.
func (a *accelerated) end() error {
	b := a.bench
	if a.ended {
		return nil
	}
	if err := b.exclude("del"); err != nil {
		return err
	}
	a.ended = true
	b.watch.endDirect(time.Now())
	if err := a.permit(); err != nil {
		return err
	}
	before := make([]int64, len(a.sent))
	for i := range a.sent {
		before[i] = a.sent[i].Load()
	}
	const enough = 100
	return await(b.ctx, "flows to go on without their exclusion", func() error {
		for i := range a.sent {
			if a.sent[i].Load() < before[i]+enough {
				return errors.New("they have not")
			}
		}
		return nil
	})
}

func (a *accelerated) stop() {
	a.cancel()
	a.wg.Wait()
}

func (b *Bench) exclude(action string) error {
	args := []string{"exclude", action}
	for _, server := range excluded {
		args = append(args, server.Addr().String())
	}
	return b.torbpf(args...)
}

// permit permits the fast path in the place of `torbpf run`, and for longer than that would. A flowtable
// needs no permit.
func (a *accelerated) permit() error {
	if a.kernel {
		return nil
	}
	b := a.bench
	return b.Lab.Router.Do(func() error {
		h, err := host.ReadFast()
		if err != nil {
			return err
		}
		ports := slices.DeleteFunc(h.Links, func(l plan.Link) bool { return l.Name != b.lan && l.Name != wan })
		return b.datapath().PermitFast(0, time.Hour, ports...)
	})
}

func (b *Bench) fastPackets() (f loader.Fast, err error) {
	err = b.Lab.Router.Do(func() error {
		f, err = b.datapath().Fast()
		return err
	})
	return f, err
}

// datapath is what the loader has pinned for the router.
func (b *Bench) datapath() *loader.Datapath {
	return loader.Open(loader.Options{Root: filepath.Dir(b.pins()), Namespace: b.namespace})
}

// takeFrames has the far ends of the router's interfaces take frames that XDP sends.
func (b *Bench) takeFrames() error {
	link, err := b.Lab.Router.Netlink().LinkByName(lan)
	if err != nil {
		return err
	}
	port, err := b.Lab.Switch.Netlink().LinkByIndex(link.Attrs().ParentIndex)
	if err != nil {
		return err
	}
	for node, name := range map[*testnet.Node]string{b.Lab.ISP: "wan0", b.Lab.Switch: port.Attrs().Name} {
		if err := node.Do(func() error { return testnet.SetGRO(name, true) }); err != nil {
			return err
		}
	}
	return nil
}
