package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/testnet"
)

// TorsRow names the row of several tors, and these its configurations.
const (
	TorsRow  = "tors"
	OneTor   = "one-tor"
	FourTors = "four-tors"
)

const severalTors = 4

// household is a private Tor network, and as many devices behind its router as there are tors,
// each of which is most another's own.
type household struct {
	*torLab
	gates *ebpf.Map
}

// SeveralTors is a row of bulk TCP from four devices at once, which share one tor, or have four.
// All run the whole time, so nothing begins anew between turns: with the gates of three shut
// their devices use the fourth. The relays are on this machine as well, and have their share of
// its processors.
func SeveralTors(ctx context.Context, program string, rounds, bytes int, progress func(string)) (_ report.Row, err error) {
	row := report.Row{Name: TorsRow, Title: "bulk TCP of four devices through a Tor network on this machine, by the time of day", Unit: report.GigabitsPerSecond, Higher: true, Base: OneTor,
		Cells: []report.Cell{{Config: OneTor, Title: "torbpf: one tor"}, {Config: FourTors, Title: "torbpf: four tors"}}}
	progress("start a private Tor network")
	lab, err := testnet.Start(ctx, testnet.Options{})
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	h := &household{torLab: &torLab{&Path{Router: lab.Router, Device: lab.Client1, lab: lab, pinRoot: pinRoot}, program, netip.AddrPortFrom(testnet.Web4, streamPort)}}
	listener, err := lab.Internet.Listen("tcp", h.site.String())
	if err != nil {
		return row, err
	}
	defer listener.Close()
	go serve(listener, bytes)
	if err := h.begin(ctx); err != nil {
		return row, err
	}
	defer h.gates.Close()
	for round := range rounds + 1 {
		progress(fmt.Sprintf("through several tors: round %d of %d", round, rounds))
		for i, tors := range inTurns(round, []int{1, severalTors}) {
			took, err := h.fetchAll(ctx, tors, bytes)
			if err != nil {
				return row, err
			}
			if round > 0 { // in the first one circuits come about
				row.Cells[i].Samples = append(row.Cells[i].Samples, float64(8*severalTors*bytes)/float64(took.Nanoseconds()))
			}
		}
	}
	return row, nil
}

// inTurns is what there is in an order that each round turns, so that none profits from its place.
func inTurns[T any](round int, all []T) iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		for n := range all {
			if i := (n + round) % len(all); !yield(i, all[i]) {
				return
			}
		}
	}
}

// begin makes the devices, attaches, and takes the gates over once all tors are ready.
func (h *household) begin(ctx context.Context) error {
	for i := range severalTors {
		if err := h.addDevice(ctx, i); err != nil {
			return err
		}
	}
	_, err := h.path.Router.Run(ctx, h.program, "attach", lan, "--tor-instances", fmt.Sprint(severalTors), "--torrc", h.path.lab.ClientTorrcFile(), "--timeout", "2m")
	if err != nil {
		return err
	}
	pin, err := h.path.pins("maps", abi.DatapathMapGates)
	if err != nil {
		return err
	}
	if h.gates, err = ebpf.LoadPinnedMap(pin, nil); err != nil {
		return fmt.Errorf("open the gates: %w", err)
	}
	if err := h.awaitGates(ctx); err != nil {
		return err
	}
	return h.endSentry(pin)
}

// addDevice makes another device of the client: an interface beside its own, with an address and
// the hardware address by which the tor of that number is its own.
func (h *household) addDevice(ctx context.Context, instance int) error {
	mac := [6]byte{2, 0, 0, 0, 0x70}
	for abi.InstanceOf(abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: mac}}, severalTors, func(int) bool { return true }) != instance {
		mac[5]++
	}
	name, table := fmt.Sprint("device", instance), fmt.Sprint(100+instance)
	addr := deviceAddr(instance)
	if err := h.path.Device.Sysctl("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "add", "link", "eth0", "name", name, "address", fmt.Sprintf("%x:%x:%x:%x:%x:%x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]), "type", "macvlan", "mode", "bridge"},
		{"addr", "add", addr.String() + "/24", "dev", name, "noprefixroute"},
		{"link", "set", name, "up"},
		{"route", "add", "default", "via", testnet.LANRouter4.String(), "dev", name, "onlink", "table", table},
		{"rule", "add", "from", addr.String(), "lookup", table},
	} {
		if _, err := h.path.Device.Run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func deviceAddr(instance int) netip.Addr {
	a := testnet.LANRouter4.As4()
	a[3] = byte(100 + instance)
	return netip.AddrFrom4(a)
}

// awaitGates waits until all tors are ready.
func (h *household) awaitGates(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for open := 0; open < severalTors; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d tors, of which %d are ready: %w", severalTors, open, ctx.Err())
		case <-tick.C:
		}
		open = 0
		for i := range uint32(severalTors) {
			var gate abi.DatapathGate
			if err := h.gates.Lookup(i, &gate); err != nil {
				return fmt.Errorf("read gate %d: %w", i, err)
			}
			open += int(gate.Open)
		}
	}
	return nil
}

// endSentry ends who would open the gates again; gates is the pin of their map.
func (h *household) endSentry(gates string) error {
	namespace := filepath.Base(filepath.Dir(filepath.Dir(gates)))
	text, err := os.ReadFile(filepath.Join("/run/torbpf", namespace, "state.json"))
	if err != nil {
		return fmt.Errorf("find the sentry: %w", err)
	}
	var state struct {
		Sentry struct {
			PID int `json:"pid"`
		} `json:"sentry"`
	}
	if err := json.Unmarshal(text, &state); err != nil || state.Sentry.PID == 0 {
		return fmt.Errorf("find the sentry: it is not in the state: %w", err)
	}
	return unix.Kill(state.Sentry.PID, unix.SIGKILL)
}

// fetchAll has all devices read at once what the site sends, by the first tors alone.
func (h *household) fetchAll(ctx context.Context, tors, bytes int) (time.Duration, error) {
	for i := range severalTors {
		gate := abi.DatapathGate{}
		if i < tors {
			gate.Open = 1
		}
		if err := h.gates.Put(uint32(i), gate); err != nil {
			return 0, fmt.Errorf("set gate %d: %w", i, err)
		}
	}
	begin := time.Now()
	var g errgroup.Group
	for i := range severalTors {
		g.Go(func() error {
			_, err := h.fetchFrom(ctx, deviceAddr(i), bytes)
			return err
		})
	}
	err := g.Wait()
	return time.Since(begin), err
}
