package rig

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
)

// Row is one kind of work and who does it.
type Row struct {
	report.Row
	Configs []string

	prepare func(*Path) (undo func() error, err error) // before the first round
	begin   func(*Driver, *Path) error                 // in the first round, once it has been measured; nil for nothing
	measure func(context.Context, *Driver, *Path) (float64, error)
	cleanUp func() error
}

// layers are those by which the price of each layer shows.
var layers = []string{Masquerade, IPRule, TC, WithoutNFT, WithoutUplink, WithoutForward, WithoutDelivery, Torbpf}

func udp(to netip.Prefix, flows int) Traffic {
	return Traffic{Protocol: unix.IPPROTO_UDP, To: to, Flows: uint32(flows)}
}

// everywhere are the configurations that let excluded destinations through.
var everywhere = []string{Plain, Masquerade, NFT, TC, Torbpf, Fast, Frames, Flowtable}

// translating are those of them that have one address for all that they let out.
var translating = []string{Masquerade, NFT, TC, Torbpf, Fast, Frames, Flowtable}

// PacketRows are the rows of packets that no socket sends, each
// burst of so many frames at least; many is the number of flows where there are to be many.
func PacketRows(frames, many int) ([]Row, error) {
	specs := []struct {
		name, title string
		traffic     Traffic
		base        string
		configs     []string
		refused     bool
	}{
		{"udp-1", "excluded destination, UDP, 1 flow", udp(Direct, 1), NFT, everywhere, false},
		{"udp-64", "excluded destination, UDP, 64 flows", udp(Direct, 64), NFT, append([]string{Floor}, everywhere...), false},
		{"udp-many", fmt.Sprintf("excluded destination, UDP, %d flows", many), udp(Direct, many), NFT, everywhere, false},
		{"udp-64-back", "answers of an excluded destination, UDP, 64 flows", Traffic{Protocol: unix.IPPROTO_UDP, To: Direct, Flows: 64, Back: router}, NFT, translating, false},
		{"tcp-64", "excluded destination, TCP segments of 10 bytes, 64 flows", Traffic{Protocol: unix.IPPROTO_TCP, To: Direct, Flows: 64}, NFT, everywhere, false},
		{"refused-many", fmt.Sprintf("refused UDP flood, %d flows", many), udp(Refused, many), NFT, []string{NFT, TC, Torbpf, XDP}, true},
		{"layers", "what each layer costs: excluded destination, UDP, 64 flows", udp(Direct, 64), Masquerade, layers, false},
	}
	var rows []Row
	for _, s := range specs {
		g, err := NewGenerator(s.traffic)
		if err != nil {
			return nil, err
		}
		b := &bursts{g, s.traffic, max(frames, int(s.traffic.Flows)), s.refused} // each flow has its turn
		rows = append(rows, Row{
			Row:     report.Row{Name: s.name, Title: s.title, Unit: report.NanosecondsPerPacket, Base: s.base},
			Configs: s.configs, prepare: (*Path).Receive, begin: b.answer, measure: b.measure, cleanUp: g.Close,
		})
	}
	return rows, nil
}

// bursts is the work of a row of packets.
type bursts struct {
	generator *Generator
	traffic   Traffic
	frames    int
	refused   bool
}

// answer makes the flows of the first burst what flows are: answered. Where there is a fast
// path it goes on until that has all of them.
func (b *bursts) answer(d *Driver, p *Path) error {
	if b.refused || p.Config.Floor {
		return nil
	}
	if err := d.Answer(p, b.traffic); err != nil || !hasFast(p.Config.Name) || b.traffic.Flows > fastFlows {
		return err
	}
	return d.settle(p, b)
}

// measure sends a burst and checks what became of it: a router that loses packets, or lets
// out what it should refuse, is not measured but reported.
func (b *bursts) measure(_ context.Context, d *Driver, p *Path) (float64, error) {
	burst, err := d.Send(p, b.generator, b.frames)
	if err != nil {
		return 0, err
	}
	return burst.Nanoseconds(), b.check(burst)
}

func (b *bursts) check(burst Burst) error {
	const enough = 0.99
	switch {
	case b.refused && burst.Right+burst.Wrong > 0:
		return fmt.Errorf("%d of %d packets arrived that are to be refused", burst.Right+burst.Wrong, burst.Sent)
	case burst.Wrong > 0:
		return fmt.Errorf("%d of %d packets arrived with a wrong source address", burst.Wrong, burst.Sent)
	case !b.refused && float64(burst.Right) < enough*float64(burst.Sent):
		return fmt.Errorf("only %d of %d packets arrived", burst.Right, burst.Sent)
	}
	return nil
}

// ManyFlows is how many flows conntrack has room for here, with some to spare: 60,000 at most.
func ManyFlows() (int, error) {
	const spare = 2000
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0, fmt.Errorf("read how many flows conntrack takes: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read how many flows conntrack takes: %w", err)
	}
	if n <= 2*spare {
		return 0, fmt.Errorf("conntrack takes %d flows only: raise net.netfilter.nf_conntrack_max", n)
	}
	return min(n-spare, maxFlows), nil
}
