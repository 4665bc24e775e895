package plan

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// TestEveryOptionOfNetworkingTor that a router has comes to the plan that
// docs/NETWORKING-TOR.md says.
func TestEveryOptionOfNetworkingTor(t *testing.T) {
	for _, c := range []struct {
		option, text string
		want         []string
	}{
		{"router.enable", "", []string{"lan eth1", "mark 0xff000000", "ports trans 9040, dns 9053"}},
		{"router.allowedDestinations", "[exclusions]\ndestinations = [\"104.16.0.0/13\", \"2606:4700::/32\"]", []string{"direct to 104.16.0.0/13", "direct to 2606:4700::/32"}},
		{"router.allowedSources", "[exclusions]\nsources = [\"192.168.1.7\"]", []string{"direct from 192.168.1.7/32"}},
		{"allowedInterfaces", "[exclusions]\ninterfaces = [\"wg0\"]", []string{"direct by interface wg0", "uplink wg0"}},
		{"allowedFwMarks", "[exclusions]\nmarks = [\"0x100\", \"0x200/0xff00\"]", []string{"direct with mark 0x200/0xff00", "direct with mark 0x100/0xffffff"}},
		{"VirtualAddrNetworkIPv4", "[tor]\nonion4 = \"10.64.0.0/10\"", []string{"onion 10.64.0.0/10"}},
		{"the reserved subnets", "local = \"reserved\"", []string{"local reserved"}},
		{"other ports", "[tor]\ntrans_port = 19040\ndns_port = 19053", []string{"ports trans 19040, dns 19053"}},
	} {
		p := planOf(t, "interfaces = [\"eth1\"]\n"+c.text)
		for _, want := range c.want {
			if !strings.Contains("\n"+p, "\n"+want) {
				t.Errorf("%s: the plan lacks %q:\n%s", c.option, want, p)
			}
		}
	}
}

// TestTheTranslatedExampleIsGood: the file that the page shows is one.
func TestTheTranslatedExampleIsGood(t *testing.T) {
	page, err := os.ReadFile("../../docs/NETWORKING-TOR.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("the page shows no file")
	}
	p := planOf(t, string(block[1]))
	for _, want := range []string{"direct to 104.16.0.0/13", "direct by interface wg0", "direct with mark 0x100/0xffffff"} {
		if !strings.Contains(p, want) {
			t.Errorf("the plan lacks %q:\n%s", want, p)
		}
	}
}

func planOf(t *testing.T, text string) string {
	t.Helper()
	cfg, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Make(cfg, homeRouter(t).link("wg0", "wireguard").addr("wg0", "10.9.0.2/24").route("10.9.0.0/24", "wg0").Host)
	if err != nil {
		t.Fatal(err)
	}
	return p.String()
}
