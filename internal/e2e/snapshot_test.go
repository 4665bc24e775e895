package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/testnet"
)

// snapshot is all that torbpf could leave behind in the router, by what it is.
type snapshot map[string]string

func takeSnapshot(t testing.TB, lab *testnet.Lab) snapshot {
	t.Helper()
	s := snapshot{
		"sysctls":        sysctls(t, lab),
		"bpf hooks":      hooks(t, lab),
		"processes":      processes(t, lab),
		"files":          files(t, stateDir(t, lab), stateDir(t, lab)+".lock", pinDir(t, lab)),
		"conntrack mark": trackedMarks(t, lab),
		"resolver":       resolverFile(t),
	}
	for _, command := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
		"ip -d link", "ip addr", "tc qdisc", "tc filter show dev eth0 ingress", "tc filter show dev eth0 egress",
		"tc filter show dev eth1 ingress", "tc filter show dev eth1 egress",
	} {
		words := strings.Fields(command)
		s[command] = remaining.ReplaceAllString(run(t, lab.Router, words[0], words[1:]...), "")
	}
	return s
}

// checkSame compares two snapshots byte by byte.
func (s snapshot) checkSame(t testing.TB, after snapshot) {
	t.Helper()
	for what := range s {
		compare(t, what, s[what], after[what])
	}
}

// compare reports the lines in which two texts differ.
func compare(t testing.TB, what, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	t.Errorf("%s: not as before", what)
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range was {
		if !slices.Contains(is, line) {
			t.Errorf("%s: gone: %s", what, line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			t.Errorf("%s: new: %s", what, line)
		}
	}
}

// remaining is how long something has yet to live.
var remaining = regexp.MustCompile(` expires [0-9a-z]+`)

// restless are settings that are no settings: counts, and caches to be flushed.
var restless = regexp.MustCompile(`nf_conntrack_count$|/flush$|stable_secret$|tcp_fastopen_key$`)

// sysctls are all settings of the router's namespace.
func sysctls(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	var b strings.Builder
	err := lab.Router.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || restless.MatchString(path) {
				return err
			}
			value, err := os.ReadFile(path)
			if os.IsPermission(err) {
				return nil // for writing only
			}
			fmt.Fprintf(&b, "%s = %s %v\n", path, strings.TrimSpace(string(value)), err)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// hooks are the BPF programs at every hook that torbpf uses.
func hooks(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	var b strings.Builder
	links, err := lab.Router.Netlink().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Router.Do(func() error {
		for _, l := range links {
			for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				found, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: attach})
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, "%s %v: %v\n", l.Attrs().Name, attach, found.Programs)
			}
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(ns.Fd()), Attach: ebpf.AttachSkLookup})
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "sk_lookup: %v\n", found.Programs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// processes are the command lines of all that runs in the router's namespace, but for this
// one, whose first thread may have gone there for a moment.
func processes(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	var lines []string
	for _, pid := range strings.Fields(run(t, lab.Router, "ip", "netns", "pids", lab.Router.NetNS)) {
		line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if err == nil && pid != strconv.Itoa(os.Getpid()) && !strings.HasPrefix(string(line), "ip\x00") {
			lines = append(lines, pid+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// files lists what there is below some paths.
func files(t testing.TB, paths ...string) string {
	t.Helper()
	var b strings.Builder
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			fmt.Fprintln(&b, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// resolverFile is where programs look up servers for names: which file, and its text.
func resolverFile(t testing.TB) string {
	t.Helper()
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintln(path, info.Mode()) + string(text)
}

// trackedMarks are the marks of connections, each once.
func trackedMarks(t testing.TB, lab *testnet.Lab) string {
	t.Helper()
	marks := map[string]bool{}
	for _, family := range []string{"ipv4", "ipv6"} {
		out := run(t, lab.Router, "conntrack", "-L", "-f", family)
		for _, mark := range regexp.MustCompile(`mark=[0-9]+`).FindAllString(out, -1) {
			if mark != "mark=0" {
				marks[mark] = true
			}
		}
	}
	var out []string
	for mark := range marks {
		out = append(out, mark)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
