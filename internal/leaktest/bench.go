package leaktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/testnet"
)

// Interfaces of the router.
const (
	wan  = "eth0"
	lan  = "eth1"
	lan2 = "eth2"
)

// Bench is a router of the lab with torbpf on it, and the means to hurt it.
type Bench struct {
	Lab     *testnet.Lab
	Program string // the torbpf under test

	args      []string // of every attach to a LAN
	namespace string
	torrc     string

	// Of the row under way.
	ctx   context.Context
	watch *Watch
	lan   string // to attach to; "" for none
	own   bool   // client mode is on, and the router itself sends

	unframed bool         // it sends no frames
	fast     *accelerated // flows of the row
	from     netip.Addr   // a client's address that recovery is probed from
	before   []func() error
	after    []func() error
	release  func() // of the gate
	busy     bool   // the state directory cannot be removed

	// Leaks before opens or after closes are right: nothing was attached then.
	begins, ends time.Time
}

// Addresses of client1 from which recovery is probed: how often a device is told
// of a refusal is limited by its address, and the others are at their limit.
var (
	probe4 = netip.MustParseAddr("192.168.50.200")
	probe6 = netip.MustParseAddr("2a0d:50::200")
)

// NewBench prepares a lab, which needs no Tor network and a second LAN.
func NewBench(ctx context.Context, lab *testnet.Lab, program string) (*Bench, error) {
	b := &Bench{Lab: lab, Program: program, ctx: ctx, lan: lan}
	err := lab.Router.Do(func() error {
		ns, err := host.Namespace()
		b.namespace = ns.Name
		return err
	})
	if err != nil {
		return nil, err
	}
	if b.torrc, err = LoneTorrc(lab); err != nil {
		return nil, err
	}
	if err := errors.Join(lab.Router.Sysctl(everyPing), b.serveExcluded()); err != nil {
		return nil, err
	}
	client := lab.Client1
	for _, line := range []string{
		"ip addr add " + probe4.String() + "/24 dev eth0",
		// Deprecated, so that nobody but the probe uses it.
		"ip addr add " + probe6.String() + "/64 dev eth0 nodad preferred_lft 0",
	} {
		if err := b.on(client, line); err != nil {
			return nil, err
		}
	}
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		// A device goes on sending to where its router was.
		for _, gateway := range []netip.Addr{testnet.LANRouter4, testnet.LANRouter6, testnet.LANRouterULA} {
			if err := b.on(n, fmt.Sprintf("ip neigh replace %v lladdr %s dev eth0 nud permanent", gateway, testnet.MACLAN)); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// LoneTorrc is a configuration for a managed tor that must not look for the Tor
// network: its only authority is a closed port of its own, so that what it does
// itself is not taken for a leak.
func LoneTorrc(lab *testnet.Lab) (string, error) {
	file := filepath.Join(lab.Dir(), "lone.torrc")
	text := "DirAuthority nobody orport=1 v3ident=" + strings.Repeat("A", 40) + " 127.0.0.1:1 " + strings.Repeat("B", 40) + "\n" +
		// With the gate held open it is asked without end, and would keep it all.
		"SocksTimeout 1\n"
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// on runs a command line on a node.
func (b *Bench) on(n *testnet.Node, line string) error {
	words := strings.Fields(line)
	_, err := n.Run(b.ctx, words[0], words[1:]...)
	return err
}

// run runs command lines in the router.
func (b *Bench) run(lines ...string) error {
	for _, line := range lines {
		if err := b.on(b.Lab.Router, line); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// feed gives a text to nft in the router.
func (b *Bench) feed(rules string) error {
	cmd := b.Lab.Router.Command(b.ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft -f: %w: %s", err, out)
	}
	return nil
}

// torbpf runs the program in the router.
func (b *Bench) torbpf(args ...string) error {
	_, err := b.Lab.Router.Run(b.ctx, b.Program, args...)
	if err != nil {
		return fmt.Errorf("torbpf %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// attach runs `attach` on the LAN of this row, or on the router itself.
func (b *Bench) attach(args ...string) error {
	line := []string{"attach", "--no-wait", "--torrc", b.torrc}
	if b.lan != "" {
		line = append(append(line, b.lan), b.args...)
	}
	if b.own {
		line = append(line, "--client")
	}
	return b.torbpf(append(line, args...)...)
}

// senders are those that try everything.
func (b *Bench) senders() []sender {
	if b.own {
		return []sender{machine{b.Lab.Router, b.Lab.Router.As(nobody), !b.unframed}}
	}
	return []sender{device{b.Lab.Client1}, device{b.Lab.Client2}}
}

// undo is called before the repair, last first: what torbpf cannot know to change.
func (b *Bench) undo(f func() error) { b.before = append(b.before, f) }

// undoRun is undo by command lines in the router.
func (b *Bench) undoRun(lines ...string) { b.undo(func() error { return b.run(lines...) }) }

// later is called when torbpf is gone, last first: it makes the lab what it was.
func (b *Bench) later(f func() error) { b.after = append(b.after, f) }

// laterRun is later by command lines in the router.
func (b *Bench) laterRun(lines ...string) { b.later(func() error { return b.run(lines...) }) }

// call empties a list of undo functions.
func call(list *[]func() error) error {
	var errs []error
	for i := len(*list) - 1; i >= 0; i-- {
		errs = append(errs, (*list)[i]())
	}
	*list = nil
	return errors.Join(errs...)
}

// pins returns the path of pins.
func (b *Bench) pins(names ...string) string {
	return filepath.Join(append([]string{"/run/torbpf/bpf", b.namespace}, names...)...)
}

// state returns the path of a run-time file.
func (b *Bench) state(names ...string) string {
	return filepath.Join(append([]string{"/run/torbpf", b.namespace}, names...)...)
}

// remove removes all files that match, of which there must be some.
func remove(pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: there is none, so the fault would be none", pattern)
	}
	for _, f := range files {
		if err := os.RemoveAll(f); err != nil {
			return err
		}
	}
	return nil
}

// index is that of an interface of the router.
func (b *Bench) index(name string) (int, error) {
	link, err := b.Lab.Router.Netlink().LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	return link.Attrs().Index, nil
}

// HoldGateOpen keeps the gates open, which without a Tor network the sentry would
// close: with it closed the LAN program refuses what the guards behind it should
// have to stop. pinDir is where the pins of the router's namespace are.
func HoldGateOpen(pinDir string) (release func(), err error) {
	gates, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, "maps", abi.DatapathMapGates), nil)
	if err != nil {
		return nil, err
	}
	open := func() error {
		var err error
		for i := range gates.MaxEntries() {
			err = errors.Join(err, gates.Put(i, abi.DatapathGate{Open: 1}))
		}
		return err
	}
	if err := open(); err != nil {
		return nil, errors.Join(err, gates.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer gates.Close()
		for ctx.Err() == nil {
			_ = open() // the first one went well
			rest(ctx, 10*time.Millisecond)
		}
	}()
	return func() { cancel(); <-done }, nil
}

// holdGate is HoldGateOpen until the repair.
func (b *Bench) holdGate() error {
	var err error
	b.release, err = HoldGateOpen(b.pins())
	return err
}

func (b *Bench) letGateGo() {
	if b.release != nil {
		b.release()
		b.release = nil
	}
}

// await polls a condition until it reports nil.
func await(ctx context.Context, what string, condition func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), err)
		}
		rest(ctx, 10*time.Millisecond)
	}
}

func mac(text string) net.HardwareAddr {
	address, err := net.ParseMAC(text)
	if err != nil {
		panic(err) // a constant of the lab
	}
	return address
}
