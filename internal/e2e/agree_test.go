package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// TestAllCountersAgree with the kernel's own, to the packet: status, the devices, top and the
// metrics count what the LAN's interface has received, also where GRO has made one packet of many
// before anybody judges them.
func TestAllCountersAgree(t *testing.T) {
	const volume = 4 << 20
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	n := lab.Client1
	for _, set := range []error{
		lab.Switch.Do(func() error { return testnet.SetTSO("port0", false) }), // so that frames arrive
		lab.Router.Do(func() error { return testnet.SetGRO(lan, true) }),
	} {
		if set != nil {
			t.Fatal(set)
		}
	}
	run(t, lab.Router, "nft", `table inet witness { chain pre { type filter hook prerouting priority -300;
		iifname eth1 ip daddr `+testnet.Web4.String()+` meta l4proto tcp counter
	}
	}`)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, `early_refusal = "off"`, "[exclusions]", `destinations = ["`+testnet.Web4.String()+`"]`))
	d.await(t, "metrics are served")
	eventually(t, patience, "the attach", func() error { return sound(t, lab, lan) })
	before := calmCounts(t, lab)
	echoMuch(t, n, volume)
	for i := range 33 {
		sendUDP(t, n, at(testnet.Other4, uint16(2000+i)))
	}
	after := calmCounts(t, lab)
	if frames, judged := after.frames-before.frames, after.judged-before.judged; frames != judged {
		t.Errorf("the interface has received %d frames, and %d packets were judged", frames, judged)
	}
	direct := after.byFate["status"]["direct"] - before.byFate["status"]["direct"]
	if refused := after.byFate["status"]["refused"] - before.byFate["status"]["refused"]; refused != 33 || direct < volume/1500 {
		t.Errorf("counted are %v, and were %v", after.byFate["status"], before.byFate["status"])
	}
	out := run(t, lab.Router, "nft", "list", "table", "inet", "witness")
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	if whole, _ := strconv.ParseUint(m[1], 10, 64); whole == 0 || whole > direct/2 { // digits alone
		t.Errorf("%d packets were direct, of which nftables has seen %d: there are no aggregates to be counted", direct, whole)
	}
}

// echoMuch has a device send much, directly, and get it back.
func echoMuch(t *testing.T, n *testnet.Node, volume int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp4", at(testnet.Web4, testnet.PortEcho).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, volume))
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, conn, volume); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// counts are what all who count have.
type counts struct {
	frames uint64                       // that the interface has received
	judged uint64                       // packets that status has of it
	byFate map[string]map[string]uint64 // by who says so
}

// fateOfVerdict says where the devices' columns have a verdict.
var fateOfVerdict = map[string]string{"tor": "tor", "onion": "tor", "dns": "tor", "resolver": "tor", "direct": "direct", "local": "local", "refused": "refused"}

// calmCounts are those of a moment when nothing came.
func calmCounts(t *testing.T, lab *testnet.Lab) (c counts) {
	t.Helper()
	eventually(t, patience, "calm", func() error {
		c = counts{frames: received(t, lab), byFate: make(map[string]map[string]uint64)}
		c.read(t, lab)
		if now := received(t, lab); now != c.frames {
			return fmt.Errorf("%d frames were received, and %d a moment later", c.frames, now)
		}
		for where, sums := range c.byFate { // metrics are those of up to a second ago
			if !maps.Equal(sums, c.byFate["status"]) {
				return fmt.Errorf("status has %v, %s %v", c.byFate["status"], where, sums)
			}
		}
		return nil
	})
	return c
}

func (c *counts) add(who, fate string, packets uint64) {
	if c.byFate[who] == nil {
		c.byFate[who] = map[string]uint64{"tor": 0, "direct": 0, "local": 0, "refused": 0}
	}
	c.byFate[who][fate] += packets
}

func (c *counts) read(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	var s router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &s); err != nil {
		t.Fatal(err)
	}
	for _, k := range s.Counters {
		if k.Interface != lan {
			continue
		}
		c.judged += k.Packets
		if k.Reason != "non-ip" { // which is nobody's
			c.add("status", fateOfVerdict[k.Verdict], k.Packets)
		}
	}
	for _, d := range listedDevices(t, lab) {
		for fate, traffic := range d.Traffic {
			c.add("device list", fate, traffic.Packets)
		}
	}
	var shown struct {
		Traffic map[string]struct{ Packets uint64 }
	}
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "top", "--once", "--json", "--interval", "100ms").stdout), &shown); err != nil {
		t.Fatal(err)
	}
	for fate, traffic := range shown.Traffic {
		c.add("top", fate, traffic.Packets)
	}
	c.readMetrics(t, lab)
}

// ofLAN and ofDevice are the series that count packets.
var (
	ofLAN    = regexp.MustCompile(`(?m)^torbpf_packets_total\{interface="eth1",reason="([a-z-]+)",verdict="([a-z]+)"\} ([0-9.e+]+)$`)
	ofDevice = regexp.MustCompile(`(?m)^torbpf_device_packets_total\{device="[^"]+",fate="([a-z]+)"\} ([0-9.e+]+)$`)
)

func (c *counts) readMetrics(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	code, text := demand(t, asks(t, lab, "tcp", metricsAddr), "GET", "http://"+metricsAddr+"/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	number := func(text string) uint64 {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(v)
	}
	for _, m := range ofLAN.FindAllStringSubmatch(text, -1) {
		if m[1] != "non-ip" {
			c.add("the metrics of the LAN", fateOfVerdict[m[2]], number(m[3]))
		}
	}
	for _, m := range ofDevice.FindAllStringSubmatch(text, -1) {
		c.add("the metrics of devices", m[1], number(m[2]))
	}
}

// received is how many frames the kernel says that the LAN's interface has received.
func received(t *testing.T, lab *testnet.Lab) uint64 {
	t.Helper()
	link, err := lab.Router.Netlink().LinkByName(lan)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}
