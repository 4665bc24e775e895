package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// eventsOf runs `torbpf events --once --json` and reads what it prints.
func eventsOf(t *testing.T, lab *testnet.Lab, args ...string) []router.Event {
	t.Helper()
	out := mustTorbpf(t, lab, append([]string{"events", "--once", "--json"}, args...)...).stdout
	var events []router.Event
	for line := range strings.Lines(out) {
		var e struct {
			Schema int
			router.Event
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != 1 {
			t.Fatalf("schema %d, %v: %s", e.Schema, err, line)
		}
		events = append(events, e.Event)
	}
	return events
}

// kindsOf is what has happened, in order.
func kindsOf(events []router.Event) string {
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, string(e.Kind))
	}
	return strings.Join(kinds, " ")
}

// startEvents starts `torbpf events`, which follows.
func startEvents(t *testing.T, lab *testnet.Lab, args ...string) *runDaemon {
	t.Helper()
	return startRunBy(t, lab.Router.Command(context.Background(), program, append([]string{"events"}, args...)...))
}

// sendUntilTold has a device refused at a port of its own until it is told of, with who sent it.
func sendUntilTold(t *testing.T, w *runDaemon, device *testnet.Node, port uint16, from string) {
	t.Helper()
	line := fmt.Sprintf(" refused %s > %s:%d, udp, by eth1: ", from, testnet.Web4, port)
	eventually(t, patience, line, func() error {
		if err := testnet.SendRaw(device, testnet.UDPDatagram(at(device.IPv4, 40000), at(testnet.Web4, port), []byte("x"))); err != nil {
			return err
		}
		if log := w.log.String(); !strings.Contains(log, line) {
			return fmt.Errorf("it says %s", log)
		}
		return nil
	})
}

// TestEvents: what commands and the daemon do is written down, and refusals are told of as
// they happen, by device and by reason.
func TestEvents(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	if r := runTorbpf(t, lab, "events"); r.code != 3 {
		t.Errorf("while nothing is attached: %v", r)
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for _, args := range [][]string{{"--reason", "qick"}, {"--kind", "repairs"}, {"--device", "tv"}, {"--since", "yesterday"}, {"now"}} {
		if r := runTorbpf(t, lab, append([]string{"events", "--once"}, args...)...); r.code != 2 {
			t.Errorf("events %v: %v", args, r)
		}
	}
	mac := lab.Client1.MAC.String()
	mustTorbpf(t, lab, "device", "name", mac, "tv")
	mustTorbpf(t, lab, "device", "block", "tv")
	mustTorbpf(t, lab, "device", "tor", "tv")
	mustTorbpf(t, lab, "exclude", "add", other4, "--comment", "the bank")
	if got := eventsOf(t, lab); kindsOf(got) != "attach policy policy policy" || got[0].Text != "on Tor: eth1" {
		t.Errorf("it has %+v", got)
	}
	if got := eventsOf(t, lab, "--device", "tv"); kindsOf(got) != "policy policy" || got[0].Device != mac {
		t.Errorf("of the television it has %+v", got)
	}
	if got := eventsOf(t, lab, "--kind", "policy", "--device", mac, "--since", "1h"); kindsOf(got) != "policy policy" {
		t.Errorf("of its hardware address it has %+v", got)
	}
	if got := mustTorbpf(t, lab, "events", "--once").stdout; !strings.Contains(got, other4) || !strings.Contains(got, "the bank") {
		t.Errorf("it prints %s", got)
	}

	run(t, lab.Client1, "ping", "-q", "-c", "1", "-W", "2", testnet.LANRouter4.String()) // now the router knows an address of it
	follow := startEvents(t, lab, "--device", "tv", "--reason", "quic,udp")
	sendUntilTold(t, follow, lab.Client1, 1001, "tv 192.168.50.11:40000")
	d := startRun(t, lab, writeConfig(t, lab, "interfaces = [\"eth1\"]\n[devices]\ntv = \""+mac+"\"\n"))
	eventually(t, patience, "its socket", func() error { _, err := os.Stat(filepath.Join(stateDir(t, lab), "refusals.sock")); return err })
	all := startEvents(t, lab, "--json")
	all.await(t, `"kind":"attach"`)
	run(t, lab.Router, "nft", "flush", "ruleset")
	eventually(t, patience, "the repair", func() error {
		if got := eventsOf(t, lab, "--kind", "repair"); len(got) == 0 || !strings.Contains(got[0].Text, "nftables") {
			return fmt.Errorf("it has %+v", got)
		}
		return nil
	})
	all.await(t, `"kind":"repair"`)
	sendUntilTold(t, follow, lab.Client1, 443, "tv 192.168.50.11:40000")
	all.await(t, `"reason":"quic"`)
	for _, secret := range []string{"the bank", "on Tor"} {
		if log := follow.log.String(); strings.Contains(log, secret) {
			t.Errorf("it tells of what nobody asked for: %s", log)
		}
	}
	d.stop(t)
	mustTorbpf(t, lab, "detach", "--all")
	for _, p := range []*runDaemon{follow, all} {
		if err := p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 3 {
			t.Errorf("behind detach %v ended with %v: %s", p.cmd.Args, err, p.log)
		}
	}
}

// TestAnAlarmIsAnEvent, of those that were kept and of those that come.
func TestAnAlarmIsAnEvent(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	follow := startEvents(t, lab)
	sendUntilTold(t, follow, lab.Client1, 1001, "192.168.50.11:40000") // which is no neighbour's yet
	tcxGone.inflict(t, lab)
	rulesetGone.inflict(t, lab)
	forwardGone.inflict(t, lab)
	if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, 40000), at(testnet.Web4, 4433), []byte("planted"))); err != nil {
		t.Fatal(err)
	}
	follow.await(t, "alarm ")
	got := eventsOf(t, lab, "--kind", "alarm")
	if len(got) == 0 || got[0].Packet == nil || got[0].Packet.Dst.Addr() != testnet.Web4 || got[0].Packet.Reason != "uplink-guard" {
		t.Errorf("it has %+v", got)
	}
}
