package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/testnet"
)

// ofModules are how modules' names begin that torbpf, or nft in its place, may want.
var ofModules = []string{
	"nf_", "nft_", "nfnetlink_", "xt_", "x_tables", "ip_tables", "ip6_tables", "sch_", "cls_", "act_", "inet_diag", "tcp_diag", "udp_diag", "raw_diag",
	"netlink_diag", "unix_diag", "af_packet_diag", "libcrc32c", "wireguard", "tun", "dummy", "bonding", "8021q", "bridge", "stp", "llc",
}

// loadedModules maps the modules that are loaded to how many use them.
func loadedModules(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	users := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 {
			users[f[0]] = f[2]
		}
	}
	return users
}

// cool makes this kernel one that has just booted: modules are on disk alone.
func cool(t *testing.T) {
	t.Helper()
	eventually(t, patience, "the end of modules", func() error {
		for progress := true; progress; {
			progress = false
			for name, users := range loadedModules(t) {
				wanted := slices.ContainsFunc(ofModules, func(p string) bool { return strings.HasPrefix(name, p) })
				if wanted && users == "0" && unix.DeleteModule(name, unix.O_NONBLOCK) == nil {
					progress = true
				}
			}
		}
		loaded := loadedModules(t)
		for _, name := range []string{"nf_tables", "nf_conntrack", "sch_ingress", "cls_bpf", "inet_diag"} {
			if users, there := loaded[name]; there {
				return fmt.Errorf("%s is loaded, and used by %s", name, users)
			}
		}
		return nil
	})
}

// TestAColdKernelHasTheSameLayers: where modules are on disk and nothing has loaded them so far, as after a boot,
// everything that torbpf has is there as it is later on, and doctor says the same.
func TestAColdKernelHasTheSameLayers(t *testing.T) {
	if to, err := os.Readlink("/sbin/modprobe"); err != nil || to != "/init" {
		t.Skip("it takes modules out of the kernel, which only a virtual machine of testnet/vm is for (CONFIG_MODULES)")
	}
	lab := plainLab(t, testnet.Options{})
	run(t, lab.Router, "nft", "flush", "ruleset")
	t.Run("doctor", func(t *testing.T) {
		cool(t)
		if cold, warm := verdicts(t, lab), verdicts(t, lab); cold != warm {
			t.Errorf("doctor says of a kernel that\n%s\nand once modules are loaded that\n%s", cold, warm)
		}
	})
	for _, with := range [][]string{{}, {"--clsact"}, {"--fastpath", "auto"}, {"--fastpath", "flowtable"}, {"--tcp-mode", "tproxy"}, {"--client"}} {
		t.Run("attach "+strings.Join(with, " "), func(t *testing.T) {
			cool(t)
			cold, warm := layers(t, lab, with), layers(t, lab, with)
			if cold != warm {
				t.Errorf("attached by a cold kernel:\n%s\nand by a warm one:\n%s", cold, warm)
			}
			t.Log(cold)
		})
	}
}

// verdicts are what doctor says before attach.
func verdicts(t *testing.T, lab *testnet.Lab) string {
	t.Helper()
	var report doctor.Report
	r := runTorbpf(t, lab, "doctor", lan, "--json")
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	var all strings.Builder
	for _, c := range report.Checks {
		fmt.Fprintf(&all, "%s: %s %v\n", c.ID, c.Verdict, c.Findings)
	}
	return all.String()
}

// layers attaches, and detaches when it knows what came of it.
func layers(t *testing.T, lab *testnet.Lab, with []string) string {
	t.Helper()
	defer mustTorbpf(t, lab, "detach", "--all")
	mustTorbpf(t, lab, attachArgs(lab, slices.Concat([]string{lan, "--no-wait", "--torrc", loneTorrc(t, lab)}, with)...)...)
	s := statusOf(t, lab)
	for _, p := range s.Problems {
		t.Errorf("after attach: %s", p)
	}
	return fmt.Sprintf("LANs %v, uplinks %v, lacks %q, fast path off for %q, warnings %q", s.Interfaces, s.Uplinks, s.Lacks, s.Fast.Off, s.Warnings)
}
