package router

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/route"
	"github.com/torbpf/torbpf/internal/sentry"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/nft"
	"github.com/torbpf/torbpf/tor"
)

// look returns all of the host that attach touches, by what it is.
func look(t *testing.T, r *Router) map[string]string {
	t.Helper()
	seen := map[string]string{
		"sysctls":   files(t, "/proc/sys/net", true),
		"files":     files(t, r.dir, false) + files(t, r.PinDir(), false) + files(t, r.dir+".lock", false),
		"hooks":     hooks(t),
		"processes": processes(t),
	}
	for _, command := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip addr", "tc qdisc",
		"tc filter show dev eth1 ingress", "tc filter show dev eth1 egress", "tc filter show dev eth0 egress",
	} {
		seen[command] = remaining.ReplaceAllString(output(t, command), "")
	}
	return seen
}

// remaining is how long an element of a set has yet to live.
var remaining = regexp.MustCompile(` expires [0-9a-z]+`)

func checkSame(t *testing.T, before, after map[string]string) {
	t.Helper()
	for what := range before {
		if before[what] != after[what] {
			t.Errorf("%s: was\n%s\nis\n%s", what, before[what], after[what])
		}
	}
}

// restless are settings that are no settings.
var restless = regexp.MustCompile(`nf_conntrack_count$|/flush$|stable_secret$|tcp_fastopen_key$`)

// files lists what is below a path, with or without contents.
func files(t *testing.T, path string, contents bool) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || restless.MatchString(path) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprint(&b, path)
		if contents && !d.IsDir() {
			value, err := os.ReadFile(path)
			fmt.Fprintf(&b, " = %s %v", strings.TrimSpace(string(value)), err)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// hooks are the programs at the hooks that torbpf uses.
func hooks(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: attach})
			must(t, err)
			fmt.Fprintf(&b, "%s %v: %v\n", l.Attrs().Name, attach, found.Programs)
		}
	}
	ns, err := os.Open("/proc/self/ns/net")
	must(t, err)
	defer ns.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(ns.Fd()), Attach: ebpf.AttachSkLookup})
	must(t, err)
	fmt.Fprintf(&b, "sk_lookup: %v\n", found.Programs)
	return b.String()
}

// processes are those of the namespace, but for this one and the commands that
// it runs.
func processes(t *testing.T) string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	all, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	var out []string
	for _, p := range all {
		ns, err := os.Readlink(filepath.Join(p, "ns/net"))
		comm, commErr := os.ReadFile(filepath.Join(p, "comm"))
		if err == nil && commErr == nil && ns == own && filepath.Base(p) != fmt.Sprint(os.Getpid()) {
			out = append(out, filepath.Base(p)+" "+strings.TrimSpace(string(comm)))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// inForce is what an attached torbpf does, in words that stay the same when it
// is taken down and put up again.
func inForce(t *testing.T, r *Router) map[string]string {
	t.Helper()
	s, err := r.loadState()
	must(t, err)
	if s == nil {
		t.Fatal("nothing is attached")
	}
	if !sentry.Running(s.Sentry.PID, s.Sentry.StartTime) {
		t.Error("the sentry of the state does not run")
	}
	if s.Proxy != nil && !s.Proxy.running() {
		t.Error("the proxy of the state does not run")
	}
	daemon, err := tor.Find(r.torDir(0))
	must(t, err)
	p, err := r.makePlan(s)
	must(t, err)
	checkApplied(t, p)
	s.Sentry = Process{}
	if s.Proxy != nil {
		s.Proxy.Process = Process{}
	}
	state, err := json.MarshalIndent(s, "", " ")
	must(t, err)
	planned, err := json.MarshalIndent(p, "", " ")
	must(t, err)
	d, err := r.datapath(s.Config.Clsact)
	must(t, err)
	attachments, err := d.Attachments()
	must(t, err)
	torrc, err := os.ReadFile(filepath.Join(r.torDir(0), "torrc"))
	must(t, err)
	return map[string]string{
		"state": string(state), "plan": string(planned), "attachments": fmt.Sprint(attachments),
		"tor": fmt.Sprint(daemon.PID(), daemon.Alive()), "torrc": string(torrc),
		"excluded":  prefixes(t, r, abi.DatapathMapDst4Prefixes),
		"processes": fmt.Sprint(strings.Count(processes(t), "\n") + 1),
		"ruleset":   remaining.ReplaceAllString(sorted(t, "nft -s list ruleset"), ""), "ip rule": sorted(t, "ip rule"), "ip -6 rule": sorted(t, "ip -6 rule"),
		"pins": files(t, r.PinDir(), false), "files": files(t, r.dir, false), "sysctls": files(t, "/proc/sys/net", true),
	}
}

// sorted runs a command and sorts what it prints, where the order says nothing:
// that of ip rules of one priority, which all forbid something, and of sets
// depends on which came first. That of nft's rules is checkApplied's matter.
func sorted(t *testing.T, command string) string {
	t.Helper()
	lines := strings.Split(output(t, command), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// checkApplied compares the kernel with a plan.
func checkApplied(t *testing.T, p *plan.Plan) {
	t.Helper()
	differences, err := nft.Check(p)
	must(t, err)
	guarded, err := loader.CanGuardForward()
	must(t, err)
	missing, err := route.Present(p)
	must(t, err)
	byRules := !guarded || p.TProxy
	if len(differences) > 0 || (byRules && len(missing) > 0) {
		t.Errorf("not as planned: %v, %v", differences, missing)
	}
	if rules := output(t, "ip rule") + output(t, "ip -6 rule"); !byRules && strings.Contains(rules, "blackhole") {
		t.Errorf("ip rules beside the guard of what is forwarded: %s", rules)
	}
}

// prefixes are those of a pinned policy map of the programs in use.
func prefixes(t *testing.T, r *Router, name string) string {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.PinDir(), "maps", name), nil)
	must(t, err)
	defer m.Close()
	var out []string
	var key, value []byte
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		out = append(out, fmt.Sprintf("%x", key))
	}
	must(t, entries.Err())
	slices.Sort(out)
	return strings.Join(out, " ")
}
