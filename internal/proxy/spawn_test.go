package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// spawned starts a proxy of its own process that ends with the test.
func spawned(t *testing.T, opts SpawnOptions) (pid int, starttime uint64) {
	t.Helper()
	opts.Args = []string{roleProxy}
	pid, starttime, err := Spawn(opts)
	must(t, err)
	t.Cleanup(func() { must(t, Stop(pid, starttime)) })
	if !Running(pid, starttime) {
		t.Fatal("the proxy does not run")
	}
	return pid, starttime
}

// newCgroup makes a control group that is gone after the test.
func newCgroup(t *testing.T) *os.File {
	t.Helper()
	root := t.TempDir()
	must(t, unix.Mount("cgroup2", root, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	path := filepath.Join(root, fmt.Sprintf("torbpf-test-%d", os.Getpid()))
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() {
		// The kernel takes a moment to see that its last process is gone.
		eventually(t, "the control group is removed", func() bool { return os.Remove(path) == nil })
	})
	dir, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	defer file.Close()
	fields := make(map[string]string)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

func TestSpawnedProxyHasNoPrivilege(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	group := newCgroup(t)
	pid, starttime := spawned(t, SpawnOptions{Config: config(), Cgroup: group})
	if status, body := get(t, browser(t), "http://origin.example/"); status != http.StatusOK || body != "origin" {
		t.Errorf("got %d %q", status, body)
	}
	account, err := user.Lookup("nobody")
	must(t, err)
	status := procStatus(t, pid)
	none := "0000000000000000"
	for field, want := range map[string]string{
		"Name": "torbpf-proxy", "Uid": strings.TrimSpace(strings.Repeat(account.Uid+" ", 4)), "Groups": "", "NoNewPrivs": "1",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	} {
		if got := status[field]; got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	members, err := os.ReadFile(filepath.Join(group.Name(), "cgroup.procs"))
	must(t, err)
	if got := strings.TrimSpace(string(members)); got != fmt.Sprint(pid) {
		t.Errorf("the control group has %q, want %d", got, pid)
	}
	t.Logf("VmRSS %s, of it RssAnon %s; threads %s", status["VmRSS"], status["RssAnon"], status["Threads"])
	must(t, Stop(pid, starttime))
	if Running(pid, starttime) {
		t.Error("runs after Stop")
	}
	pid, starttime = spawned(t, SpawnOptions{Config: config()}) // the port is free again
	must(t, StopAll())
	if Running(pid, starttime) {
		t.Error("runs after StopAll")
	}
}

// TestEverySocketIsOfTheControlGroup: a program there marks sockets, as the datapath
// does, and only what has the mark gets out. So what is outside the group does not.
func TestEverySocketIsOfTheControlGroup(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const mark, mask = 0x01000000, 0xff000000
	newWorld(t)
	group := newCgroup(t)
	marker, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSock, AttachType: ebpf.AttachCGroupInetSockCreate, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, mark),
			asm.StoreMem(asm.R1, 16, asm.R2, asm.Word), // struct bpf_sock, mark
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
	})
	must(t, err)
	defer marker.Close()
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: group.Name(), Attach: ebpf.AttachCGroupInetSockCreate, Program: marker})
	must(t, err)
	defer attached.Close()
	bits := uint32(mask)
	for _, prefix := range []netip.Prefix{netip.PrefixFrom(own4, 24), netip.PrefixFrom(own6, 64)} {
		rule := netlink.NewRule()
		rule.Priority, rule.Mark, rule.Mask, rule.Invert, rule.Type = 1, mark, &bits, true, unix.RTN_PROHIBIT
		rule.Family = unix.AF_INET
		if prefix.Addr().Is6() {
			rule.Family = unix.AF_INET6
		}
		must(t, netlink.RuleAdd(rule))
	}
	targets := []string{"http://" + origin4.String() + "/", "http://[" + origin6.String() + "]/", "http://four.example/", "http://six.example/"}
	expect := func(who string, want int, cgroup *os.File) {
		t.Helper()
		pid, starttime := spawned(t, SpawnOptions{Config: config(), Cgroup: cgroup})
		for _, target := range targets {
			if got, body := get(t, browser(t), target); got != want {
				t.Errorf("%s, %s: %d %q, want %d", who, target, got, body, want)
			}
		}
		must(t, Stop(pid, starttime))
	}
	expect("outside", http.StatusBadGateway, nil)
	expect("in the group", http.StatusOK, group)
}

// TestNoDestinationIsLogged, whatever goes wrong with it.
func TestNoDestinationIsLogged(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer log.Close()
	pid, starttime := spawned(t, SpawnOptions{Config: config(), Log: log})
	for _, host := range []string{"origin.example", "nobody.example", "a.onion", origin4.String() + ":9"} {
		get(t, browser(t), "http://"+host+"/")
		conn := dialProxy(t)
		connect(t, conn, strings.TrimSuffix(host, ":9")+":9", "")
		must(t, conn.SetLinger(0)) // a reset
		conn.Close()
	}
	ask(t, "nonsense\r\n\r\n")
	must(t, Stop(pid, starttime))
	if text, err := os.ReadFile(log.Name()); err != nil || len(text) > 0 {
		t.Errorf("it wrote %q (%v)", text, err)
	}
}

func TestSpawnReportsWhyTheProxyCannotServe(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	refuses := func(what, want string, cfg Config) {
		t.Helper()
		pid, _, err := Spawn(SpawnOptions{Args: []string{roleProxy}, Config: cfg})
		if err == nil || !strings.Contains(err.Error(), want) || pid != 0 {
			t.Errorf("%s: pid %d, error %v, want one with %q", what, pid, err, want)
		}
	}
	for _, addr := range []string{"127.0.0.1:3128", "[::1]:3128"} {
		taken, err := net.Listen("tcp", addr)
		must(t, err)
		refuses(addr, "address already in use", config())
		must(t, taken.Close())
	}
	refuses("no port", "must not be 0", Config{})
	refuses("no resolver's address", "no resolver's address", Config{Port: port, Resolver: netip.IPv4Unspecified()})
}

// TestAMachineWithoutIPv6IsServed on 127.0.0.1 alone.
func TestAMachineWithoutIPv6IsServed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644))
	up(t, "lo")
	spawned(t, SpawnOptions{Config: config()})
	if status, body := get(t, &http.Client{}, "http://127.0.0.1:3128/"); status != http.StatusOK || body != help {
		t.Errorf("got %d %q", status, body)
	}
}
