package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
	"github.com/torbpf/torbpf/testnet"
)

// TorBulkRow names the row of ThroughTor.
const TorBulkRow = "tor-bulk"

// torLab is a private Tor network, whose router redirects to one tor by torbpf or by nft
// rules, in turns.
type torLab struct {
	path    *Path
	program string
	site    netip.AddrPort
}

// ThroughTor is a row of bulk TCP from a device through three relays: all of them are on this machine, so it says whether torbpf or nft is in the way of tor, and not
// what Tor can do.
func ThroughTor(ctx context.Context, program string, rounds, bytes int, progress func(string)) (_ report.Row, err error) {
	row := report.Row{Name: TorBulkRow, Title: "bulk TCP through a Tor network on this machine, by the time of day", Unit: report.GigabitsPerSecond, Higher: true, Base: NFT,
		Cells: []report.Cell{{Config: NFT, Title: "nft rules of networking.tor"}, {Config: Torbpf, Title: "torbpf: all layers"},
			{Config: Frames, Title: "torbpf: all layers, fast path, early refusal (XDP)"}}}
	progress("start a private Tor network")
	lab, err := testnet.Start(ctx, testnet.Options{})
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	t := &torLab{&Path{Router: lab.Router, Device: lab.Client1, lab: lab, pinRoot: pinRoot}, program, netip.AddrPortFrom(testnet.Web4, streamPort)}
	listener, err := lab.Internet.Listen("tcp", t.site.String())
	if err != nil {
		return row, err
	}
	defer listener.Close()
	go serve(listener, bytes)
	for round := range rounds + 1 {
		progress(fmt.Sprintf("through Tor: round %d of %d", round, rounds))
		for i, redirect := range inTurns(round, []func(context.Context) error{t.byNFT, t.byTorbpf, t.byFrames}) {
			if err := redirect(ctx); err != nil {
				return row, err
			}
			took, err := t.fetch(ctx, bytes)
			if err != nil {
				return row, err
			}
			if round > 0 { // in the first one circuits come about
				row.Cells[i].Samples = append(row.Cells[i].Samples, float64(8*bytes)/float64(took.Nanoseconds()))
			}
		}
	}
	return row, nil
}

// byTorbpf has all of torbpf stand, whatever was taken away of it.
func (t *torLab) byTorbpf(ctx context.Context) error { return t.attach(ctx) }

// byFrames has the fast path and the XDP programs, too.
func (t *torLab) byFrames(ctx context.Context) error {
	if err := t.attach(ctx, "--fastpath", "auto", "--early-refusal", "native"); err != nil {
		return err
	}
	return t.path.permit(true)
}

func (t *torLab) attach(ctx context.Context, flags ...string) error {
	if err := t.path.loadRules(ctx, "table inet tor_router\ndelete table inet tor_router\n"); err != nil {
		return err
	}
	args := []string{"attach", lan, "--torrc", t.path.lab.ClientTorrcFile(), "--timeout", "2m"}
	_, err := t.path.Router.Run(ctx, t.program, append(args, flags...)...)
	return err
}

// byNFT leaves nothing of torbpf but its tor.
func (t *torLab) byNFT(ctx context.Context) error {
	if err := t.byTorbpf(ctx); err != nil {
		return err
	}
	if err := t.path.removeLinks(func(string) bool { return true }); err != nil {
		return err
	}
	if err := t.path.removeRules(); err != nil {
		return err
	}
	if _, err := t.path.Router.Run(ctx, "nft", "delete", "table", "inet", "torbpf"); err != nil {
		return err
	}
	return t.path.loadRules(ctx, fmt.Sprintf(nftRules, Direct))
}

// fetch has the device read what the site sends.
func (t *torLab) fetch(ctx context.Context, bytes int) (time.Duration, error) {
	return t.fetchFrom(ctx, netip.Addr{}, bytes)
}

// fetchFrom is fetch from one of the device's addresses.
func (t *torLab) fetchFrom(ctx context.Context, src netip.Addr, bytes int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	begin := time.Now()
	conn, err := t.path.Device.DialFrom(ctx, src, "tcp", t.site.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != int64(bytes) {
		err = fmt.Errorf("%d of %d bytes came through Tor", n, bytes)
	}
	return time.Since(begin), err
}

// serve sends so many bytes to whoever connects, until the listener is closed. What goes
// wrong, whoever reads finds out.
func serve(listener net.Listener, bytes int) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, streamBuffer)
			for left := bytes; left > 0; {
				n, err := conn.Write(buffer[:min(left, len(buffer))])
				if err != nil {
					return
				}
				left -= n
			}
		}()
	}
}

// removeRules removes the ip rules by which packets of a LAN are blocked.
func (p *Path) removeRules() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := p.Router.Netlink().RuleList(family)
		if err != nil {
			return fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range rules {
			if r.IifName != lan {
				continue
			}
			r.Family = family
			if err := p.Router.Netlink().RuleDel(&r); err != nil {
				return fmt.Errorf("remove %v: %w", r, err)
			}
		}
	}
	return nil
}
