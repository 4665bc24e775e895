package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

const pageOrigin = "http://" + metricsAddr

// pageLogin is the link that the command prints.
func pageLogin(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	url := strings.TrimSpace(mustTorbpf(t, lab, "page", "login").stdout)
	if !strings.HasPrefix(url, pageOrigin+"/#") {
		t.Fatalf("the link is %s", url)
	}
	return url
}

// runPage starts `torbpf run` with names for the devices, and waits for the page.
func runPage(t *testing.T, lab *testnet.Lab, lines ...string) *runDaemon {
	t.Helper()
	lines = append([]string{`interfaces = ["eth1"]`, "[devices]", `kitchen-tv = "` + testnet.MACClient1 + `"`, `laptop = "` + testnet.MACClient2 + `"`}, lines...)
	d := startRun(t, lab, writeConfig(t, lab, lines...))
	d.await(t, "metrics are served")
	eventually(t, patience, "the attach", func() error { return sound(t, lab, lan) })
	return d
}

// cardOf is a device's part of the page.
func cardOf(mac string) string { return fmt.Sprintf("li[data-device='%s']", mac) }

func buttonOf(mac, policy string) string {
	return fmt.Sprintf("%s button[data-policy=%s]", cardOf(mac), policy)
}

// TestThePage: by a link of root's, with the mouse and with the keyboard alone, devices are let
// out for ten minutes, blocked and put back; what it shows is what the commands say; and it asks
// for nothing elsewhere.
func TestThePage(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := runPage(t, lab)
	tv, laptop := lab.Client1, lab.Client2
	for _, n := range []*testnet.Node{tv, laptop} {
		checkNoEcho(t, n, testnet.Web4)
	}
	b := openTab(t, lab, lab.Router)
	b.visit(pageOrigin + "/")
	b.shows("#door", "sudo torbpf page login")
	b.shows("#no-password", "No password is set")
	b.visit("about:blank")
	link := pageLogin(t, lab)
	b.visit(link)
	b.shows("#device-list", "kitchen-tv")
	var hash string
	if b.eval("location.hash", &hash); hash != "" {
		t.Errorf("the address keeps %s", hash)
	}

	// The mouse.
	b.click(buttonOf(testnet.MACClient1, "direct"))
	b.shows("#device-said", "kitchen-tv: Direct for 10 minutes")
	b.shows(cardOf(testnet.MACClient1)+" .under", "Direct, past Tor until")
	b.shows(cardOf(testnet.MACClient1)+" .under", "9 min ")
	if got := listedDevices(t, lab)[testnet.MACClient1]; got.Policy != "direct" || got.Until == "" {
		t.Errorf("the command says %+v", got)
	}
	checkDirect(t, tv, testnet.Web4)
	checkEcho(t, tv, testnet.Web4, testnet.Web6)
	checkNoEcho(t, laptop, testnet.Web4)
	b.click(buttonOf(testnet.MACClient1, "tor"))
	b.shows(cardOf(testnet.MACClient1)+" .under", "By Tor")
	checkNoEcho(t, tv, testnet.Web4)

	// The keyboard.
	b.tabTo(cardOf(testnet.MACClient2) + " select")
	b.press("End")
	b.eval("document.body.focus(), document.activeElement.blur()", nil)
	b.tabTo(buttonOf(testnet.MACClient2, "block"))
	b.press("Enter")
	b.shows("#device-said", "laptop: Block until changed")
	b.shows(cardOf(testnet.MACClient2)+" .under", "Blocked")
	if got := ruleLines(t, lab); got != "device "+testnet.MACClient2+" block" {
		t.Errorf("the rules are %s", got)
	}
	if events := mustTorbpf(t, lab, "events", "--once").stdout; !strings.Contains(events, "by the page") {
		t.Errorf("the audit has %s", events)
	}
	var focused bool
	if b.eval(fmt.Sprintf("document.activeElement.matches(%q)", buttonOf(testnet.MACClient2, "block")), &focused); !focused {
		t.Error("the button has lost the focus")
	}
	b.press("Home") // of the page: a key that no button takes
	b.tabTo(buttonOf(testnet.MACClient2, "block"))
	b.eval("document.activeElement.previousElementSibling.previousElementSibling.focus()", nil)
	b.press(" ")
	b.shows(cardOf(testnet.MACClient2)+" .under", "By Tor")

	var report doctor.Report
	if err := json.Unmarshal([]byte(runTorbpf(t, lab, "doctor", "--json").stdout), &report); err != nil {
		t.Fatal(err)
	}
	b.click("#examine")
	b.shows("#doctor-said", fmt.Sprintf("%d checks, ", len(report.Checks)))
	for _, check := range report.Checks {
		for _, f := range check.Findings {
			if f.Verdict != doctor.OK && f.Verdict != doctor.NotApplicable {
				b.shows("#findings", f.Reason)
			}
		}
	}
	checkPageCounts(t, lab, b)
	checkPageEnds(t, lab, b, d, link)
	b.checkOrigins(pageOrigin, "status of 401", "status of 409", "ERR_", "status of 502")
}

// checkPageCounts: what it shows is what was sent, and what the commands say.
func checkPageCounts(t *testing.T, lab *testnet.Lab, b *tab) {
	t.Helper()
	before := counterOf(t, lab, "quic")
	for i := range 7 {
		if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, uint16(40000+i)), at(testnet.Web4, 443), []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	b.eval("document.getElementById('counters').closest('details').open = true", nil)
	b.shows("#event-list", "kitchen-tv "+lab.Client1.IPv4.String()+":4000")
	eventually(t, patience, "the same figures", func() error {
		c := counterOf(t, lab, "quic")
		if c.Packets != before.Packets+7 {
			return fmt.Errorf("of 7 packets there are %d more", c.Packets-before.Packets)
		}
		row := fmt.Sprintf("eth1\trefused\tquic\t%d\t%d", c.Packets, c.Bytes)
		if got := b.text("#counters"); !strings.Contains(got, row) {
			return fmt.Errorf("it shows %s instead of %s", got, row)
		}
		refused := listedDevices(t, lab)[testnet.MACClient1].Traffic["refused"].Packets
		if got := b.text(cardOf(testnet.MACClient1) + " .sent"); !strings.Contains(got, fmt.Sprintf("%d packets", refused)) {
			return fmt.Errorf("it shows %s, and %d were refused", got, refused)
		}
		return nil
	})
	b.shows("#refusals .legend", "quic")
	for _, text := range []string{"refused, Tor is not ready", "eth1", "eth0", "0 packets"} {
		b.shows("#tiles", text)
	}
	b.shows("#tors", "refuses devices")
}

// counterOf is the router's counter of refusals for a reason.
func counterOf(t *testing.T, lab *testnet.Lab, reason string) router.CounterStatus {
	t.Helper()
	var status router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	for _, c := range status.Counters {
		if c.Interface == lan && c.Reason == reason && c.Verdict == "refused" {
			return c
		}
	}
	return router.CounterStatus{}
}

// checkPageEnds: sessions end, a link works once, and the page says what is gone.
func checkPageEnds(t *testing.T, lab *testnet.Lab, b *tab, d *runDaemon, used string) {
	t.Helper()
	if r := mustTorbpf(t, lab, "page", "logout"); r.stdout != "1 session has ended\n" {
		t.Errorf("logout says %s", r.stdout)
	}
	b.shows("#door", "Sign in")
	b.shows("#notice", "The session has ended.")
	b.visit("about:blank")
	b.visit(used)
	b.shows("#notice", "the link has been used")
	b.visit("about:blank")
	b.visit(pageLogin(t, lab))
	b.shows("#device-list", "laptop")
	mustTorbpf(t, lab, "detach", "--all")
	b.shows("#headline", "Nothing is on Tor")
	b.shows("#notice", "sudo torbpf attach")
	d.stop(t)
	b.shows("#headline", "No answer")
	b.shows("#notice", "the router does not answer")
}
