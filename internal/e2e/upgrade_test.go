package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// generations is how many times TestUpgradeUnderLoad replaces everything.
const generations = 20

// TestUpgradeUnderLoad: attach replaces programs, maps, rules and sentry while
// devices load pages, begin new connections and flood the router with what must
// not pass. No packet gets out, and nobody notices.
func TestUpgradeUnderLoad(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	capture := captureWAN(t, lab)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	var pages, floods atomic.Int64
	errs := make(chan error, 100)
	report := func(err error) {
		select {
		case errs <- err:
		default: // a hundred will do
		}
	}
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		load.Go(func() { report(loadPages(ctx, n, &pages)) })
		load.Go(func() { report(beginConnections(ctx, lab, n)) })
		load.Go(func() { report(flood(ctx, n, &floods)) })
	}
	var longest time.Duration
	for range generations {
		begin := time.Now()
		mustTorbpf(t, lab, attachArgs(lab, lan)...)
		longest = max(longest, time.Since(begin))
	}
	cancel()
	load.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d generations, the longest took %v; %d downloads of %d bytes, %d datagrams refused",
		generations, longest.Round(time.Millisecond), pages.Load(), smallDownload, floods.Load())
	if pages.Load() < generations {
		t.Errorf("only %d downloads", pages.Load())
	}
	checkNoLeaks(t, capture)
	checkServersSawExitsOnly(t, lab)
}

// TestRunGivesWayToAnotherVersion: a daemon does not undo what a newer program has attached,
// and the one that is started next, whichever it is, goes on from there.
func TestRunGivesWayToAnotherVersion(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	file := writeConfig(t, lab, `interfaces = ["eth1"]`)
	other := filepath.Join(filepath.Dir(program), "torbpf-other")
	if err := testnet.BuildProgram(other, "-ldflags", "-X main.version=other"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := lab.Router.Command(ctx, program, "run", "--config", file)
	log := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	run(t, lab.Router, other, "attach", "--no-wait", lan)
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(log.String(), "another version of torbpf has taken over") {
		t.Errorf("it ended with %v: %s", err, log)
	}
	run(t, lab.Router, other, "check", "--layers")
	startRun(t, lab, file)
	eventually(t, patience, "to be of this version", func() error { return sound(t, lab, lan) })
}

// smallDownload is done several times during the test.
const smallDownload = 1 << 20

// loadPages downloads until ctx ends, the last to its end.
func loadPages(ctx context.Context, n *testnet.Node, done *atomic.Int64) error {
	for i := 0; ctx.Err() == nil; i++ {
		server := []netip.Addr{testnet.Web4, testnet.Web6}[i%2]
		whole, cancel := context.WithTimeout(context.Background(), torPatience)
		body, err := openPage(whole, n, bytesPage(server, smallDownload))
		if err != nil {
			cancel()
			return err
		}
		size, err := io.Copy(io.Discard, body)
		body.Close()
		cancel()
		if err != nil || size != smallDownload {
			return fmt.Errorf("a download of %s ended after %d bytes: %w", n.Name, size, err)
		}
		done.Add(1)
	}
	return nil
}

// beginConnections looks up names and fetches pages until ctx ends; none may be
// refused. The sentry, which answers by TCP, may be away for a moment.
func beginConnections(ctx context.Context, lab *testnet.Lab, n *testnet.Node) error {
	for i := 0; ctx.Err() == nil; i++ {
		server := []netip.Addr{testnet.Other4, testnet.Other6}[i%2]
		name := fmt.Sprintf("%s-%d.%s", n.Name, i, testnet.Zone)
		err := errors.Join(byTor(lab, n, server), lookup(n, n.Resolver, name, "A", "udp", testnet.Web4.String()))
		if err != nil {
			return err
		}
	}
	return nil
}

// flood sends QUIC to two servers as fast as a device can, from one socket each.
func flood(ctx context.Context, n *testnet.Node, sent *atomic.Int64) error {
	for _, server := range []netip.Addr{testnet.Web4, testnet.Web6} {
		conn, err := n.Dial(ctx, "udp", at(server, testnet.PortHTTPS).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		go func() {
			for ctx.Err() == nil {
				for range 20 {
					_, _ = conn.Write([]byte("this must not pass")) // refused, as it should
					sent.Add(1)
				}
				waitABit(ctx)
			}
		}()
	}
	<-ctx.Done()
	return nil
}

// waitABit leaves the processor to others, or the flood would be all there is.
func waitABit(ctx context.Context) {
	timer := time.NewTimer(time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
