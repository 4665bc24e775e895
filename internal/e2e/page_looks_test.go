package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

var updatePictures = flag.Bool("update", false, "write the pictures of the page to docs")

// maxPicture is what a picture of the page may weigh in the repository, in bytes.
const maxPicture = 150 << 10

// TestThePageLooksRight: in light and in dark, wide and at 360 pixels, every text can be read,
// every control has a name, and nothing sticks out. With -update it draws the pictures of the
// docs.
func TestThePageLooksRight(t *testing.T) {
	lab := torLab(t)
	detachLater(t, lab)
	d := startRun(t, lab, livelyConfig(t, lab))
	d.await(t, "Tor is ready")
	d.await(t, "metrics are served")
	for last, name := range []string{"printer", "tablet", "doorbell"} {
		run(t, lab.Router, "ip", "neigh", "replace", fmt.Sprintf("192.168.50.%d", 70+last), "lladdr", madeUp(last), "dev", lan, "nud", "stale")
		mustTorbpf(t, lab, "device", "name", madeUp(last), name)
	}
	mustTorbpf(t, lab, "device", "allow", "laptop", "--for", "10m")
	mustTorbpf(t, lab, "device", "block", "doorbell")

	b := openTab(t, lab, lab.Router)
	b.visit(pageLogin(t, lab))
	b.shows("#headline", "All is in order")
	rounds := 3
	if *updatePictures {
		rounds = 40
	}
	for round := range rounds {
		livelyRound(t, lab, b, round)
	}
	b.shows("#tors", "serves devices")
	b.shows("#throughput .legend", "by Tor")
	checkNewIdentity(t, lab, b)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int{1280, 360} {
			b.look(width, 900, scheme)
			checkLooks(t, b, fmt.Sprintf("%s at %d pixels", scheme, width))
		}
		b.look(920, 1000, scheme)
		b.eval("document.activeElement.blur(), scrollTo(0, 0)", nil)
		keepPicture(t, scheme, b.picture())
	}

	// Somebody's choice goes before the system's, and outlives the page.
	b.eval(`const e = document.getElementById("theme"); e.value = "light"; e.dispatchEvent(new Event("change"))`, nil)
	var before, after string
	b.eval("getComputedStyle(document.body).backgroundColor", &before)
	b.call("Page.reload", map[string]any{}, nil)
	b.shows("#headline", "All is in order")
	if b.eval("getComputedStyle(document.body).backgroundColor", &after); before != after || before != "rgb(246, 245, 248)" {
		t.Errorf("light is %s, then %s", before, after)
	}
	b.click("#sign-out")
	b.shows("#door", "Sign in")
	checkLooks(t, b, "the door")
	b.checkOrigins(pageOrigin, "status of 401")
}

// checkNewIdentity: the circuits of a device are those that the command lists, and go.
func checkNewIdentity(t *testing.T, lab *testnet.Lab, b *tab) {
	t.Helper()
	summary := cardOf(testnet.MACClient1) + " summary"
	used := circuitsOfName(circuitsNow(t, lab), "kitchen-tv")
	b.shows(summary, fmt.Sprintf("%d circuit", len(used)))
	b.click(summary)
	b.shows(cardOf(testnet.MACClient1)+" .circuits", " → ")
	b.tabTo(cardOf(testnet.MACClient1) + " .renew")
	b.press("Enter")
	b.shows("#device-said", "closed")
	eventually(t, torPatience, "other circuits", func() error {
		if left := sharedCircuits(used, circuitsOfName(circuitsNow(t, lab), "kitchen-tv")); len(left) > 0 || len(used) == 0 {
			return fmt.Errorf("of %v it still has %v", used, left)
		}
		return nil
	})
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	b.shows(summary, "circuit")
	b.click("#new-identity")
	b.shows("#tor-said", "what begins from now on uses new circuits")
}

// circuitsOfName is circuitsOf for a device that has a name.
func circuitsOfName(list []router.CircuitStatus, name string) []uint64 {
	var out []uint64
	for _, c := range list {
		if slices.Contains(c.Devices, name) {
			out = append(out, c.ID)
		}
	}
	return out
}

func madeUp(last int) string { return fmt.Sprintf("02:00:5e:10:00:%02d", last+1) }

// livelyConfig is for a router whose tor has a network, and with names for its devices.
func livelyConfig(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	path := filepath.Join(lab.Dir(), "lively.toml")
	text := fmt.Sprintf("interfaces = [%q]\n[tor]\ntorrc = %q\n[devices]\nkitchen-tv = %q\nlaptop = %q\n", lan, lab.ClientTorrcFile(), testnet.MACClient1, testnet.MACClient2)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// livelyRound sends something by Tor, something directly and something that is refused, and
// waits until the page has read it.
func livelyRound(t *testing.T, lab *testnet.Lab, b *tab, round int) {
	t.Helper()
	var before, now string
	b.eval("document.body.dataset.read", &before)
	checkByTor(t, lab, lab.Client1, testnet.Web4)
	for range 1 + round%4 {
		checkDirect(t, lab.Client2, testnet.Web4)
	}
	for i := range (round * 7) % 12 {
		port := []uint16{443, 1194, 443, 3478}[i%4]
		if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, uint16(40000+i)), at(testnet.Web4, port), []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, patience, "another reading", func() error {
		if b.eval("document.body.dataset.read", &now); now == before {
			return fmt.Errorf("it is still number %s", now)
		}
		return nil
	})
}

func keepPicture(t *testing.T, scheme string, png []byte) {
	t.Helper()
	path := "../../docs/page-" + scheme + ".png"
	if *updatePictures {
		if err := os.WriteFile(path, png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > maxPicture {
		t.Errorf("the picture of the docs: %v, %v: -update draws it", info, err)
	}
}

// looks finds what cannot be read, and what sticks out.
const looks = `(() => {
	const found = [];
	const parse = (c) => c.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
	const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
	const name = (e) => e.tagName + (e.id && "#" + e.id) + " " + e.textContent.trim().slice(0, 30);
	let texts = 0;
	for (const e of document.body.querySelectorAll("*")) {
		if (!e.checkVisibility() || !e.getClientRects().length) continue;
		const style = getComputedStyle(e);
		if ([...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) {
			texts++;
			const r = ratio(parse(style.color), behind(e));
			if (r < 4.5) found.push(name(e) + ": contrast " + r.toFixed(2));
		}
		if (e.matches("button, select, input")) {
			const r = ratio(parse(style.borderTopColor), behind(e.parentElement));
			if (r < 3) found.push(name(e) + ": its edge has a contrast of " + r.toFixed(2));
			const box = e.getBoundingClientRect();
			if (box.height < 24 || box.width < 24) found.push(name(e) + ": it is small");
		}
		if (e.matches("path[class^=s-]")) {
			const r = ratio(parse(style.stroke), behind(e));
			if (r < 3) found.push("line " + e.className.baseVal + ": contrast " + r.toFixed(2));
		}
	}
	if (texts < 5) found.push("there are " + texts + " texts");
	const out = document.documentElement.scrollWidth - document.documentElement.clientWidth;
	if (out > 0) found.push("it is wider than the window by " + out);
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("two are " + id);
	if (!document.documentElement.lang || !document.title) found.push("it has no language, or no title");
	return found;
})()`

// named are the roles of what somebody has to be told apart by name.
const named = " button link textbox combobox progressbar image img log table group region figure checkbox radio "

// checkLooks judges the page by what a browser makes of it: colours, sizes, names.
func checkLooks(t *testing.T, b *tab, when string) {
	t.Helper()
	var found []string
	b.eval(looks, &found)
	for _, f := range found {
		t.Errorf("%s: %s", when, f)
	}
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value json.RawMessage }
		}
	}
	b.call("Accessibility.getFullAXTree", map[string]any{}, &tree)
	controls := 0
	for _, n := range tree.Nodes {
		var role, name string
		if n.Ignored || json.Unmarshal(n.Role.Value, &role) != nil || !strings.Contains(named, " "+strings.ToLower(role)+" ") {
			continue
		}
		controls++
		if err := json.Unmarshal(n.Name.Value, &name); err != nil || strings.TrimSpace(name) == "" {
			t.Errorf("%s: a %s has no name", when, role)
		}
	}
	if controls == 0 {
		t.Errorf("%s: there is nothing to use", when)
	}
}
