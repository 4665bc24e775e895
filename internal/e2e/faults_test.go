package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

func removeAll(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheBatterySeesLeaks: with all guards gone, each kind of leak that
// leaktest.TestNothingLeaksWhateverHappens looks for is seen.
func TestTheBatterySeesLeaks(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	removeAll(t, filepath.Join(pinDir(t, lab), "links", "*"))
	run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	if err := leaktest.DeleteRules(t.Context(), lab.Router); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(w.leaks(t), "\n")
	for _, want := range []string{
		"wan: tcp 62.10.0.2:[0-9]+ > 51.20.0.80:80", `wan: tcp \[2a0d:50::11\]:[0-9]+ > \[2a0e:20::80\]:80`,
		"wan: udp 62.10.0.2:[0-9]+ > 51.20.0.80:443", `wan: udp \[2a0d:50::12\]:[0-9]+ > \[2a0e:20::80\]:443`,
		"wan: icmp 62.10.0.2:0 > 51.20.0.80:0", `wan: icmpv6 \[2a0d:50::11\]:0 > \[2a0e:20::80\]:0`,
		"wan: udp .* > 9.9.9.9:53", `wan: udp .* > \[2620:fe::fe\]:53`, "wan: tcp .* > 9.9.9.9:53",
		"wan: ip-47 ", "wan: ip-132 ", "wan: udp .* fragment",
		"router's resolver: udp client1-to-192-168-50-1.", "router's resolver: udp client2-to-2a0d_50__1.",
		"router's resolver: udp client1-to-fd50__1.", "router's resolver: udp client1-to-fe80__ff_fe00_5001.",
		"router's resolver: udp client1-to-62-10-0-2.", "router's resolver: udp pieces-client1-to-192-168-50-1.",
		"router's resolver: tcp dial-client1-r1-192-168-50-1.", "router's resolver: tcp dial-client2-r1-2a0d_50__1.",
		"ISP's resolver: udp client1-to-192-168-50-1.", "ISP's resolver: udp client1-to-62-53-0-53.",
		"web: .* 62.10.0.2", "web: .* 2a0d:50::11",
	} {
		if !regexp.MustCompile(want).MatchString(found) {
			t.Errorf("no leak like %q was seen", want)
		}
	}
	if t.Failed() {
		t.Log(found)
	}
}
