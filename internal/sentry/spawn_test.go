package sentry

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/confined"
)

// spawnOptions are for a sentry of three tors, of which all but the second are bootstrapped.
func spawnOptions(t *testing.T, gates *ebpf.Map) SpawnOptions {
	askers := newMap(t, abi.DatapathMapAskers)
	return SpawnOptions{
		Args: []string{roleSentry},
		Config: Config{
			Tors:         []TorConfig{{Control: "100", DNSPort: dnsPort}, {Control: "99", DNSPort: dnsPort}, {Control: "100", DNSPort: dnsPort}},
			ResolverPort: resolverPort, LANPrefixes: lanPrefixes,
			GateFD: 77, // the descriptor's number is for Spawn to set
		},
		Gates:  gates.FD(),
		Askers: askers.FD(),
		Group:  105,
	}
}

// spawned starts a sentry that ends with the test.
func spawned(t *testing.T, opts SpawnOptions) (pid int, starttime uint64) {
	t.Helper()
	pid, starttime, err := Spawn(opts)
	must(t, err)
	t.Cleanup(func() { must(t, Stop(pid, starttime)) })
	if !Running(pid, starttime) {
		t.Fatal("the sentry does not run")
	}
	return pid, starttime
}

// proc returns the fields of /proc/PID/status, blanks squeezed.
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

func TestSpawnedSentryHasNoPrivilege(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	// A descriptor as a calling script leaves it: not closed on exec.
	lock, err := unix.Open(t.TempDir(), unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(lock)
	must(t, syscall.Setgroups([]int{0, 27})) // of all threads, unlike unix.Setgroups
	pid, _ := spawned(t, spawnOptions(t, newGates(t)))

	account, err := user.Lookup("nobody")
	must(t, err)
	ids := strings.TrimSpace(strings.Repeat(account.Uid+" ", 4))
	status := procStatus(t, pid)
	none := "0000000000000000"
	for field, want := range map[string]string{
		"Name": "torbpf-sentry", "Uid": ids, "Gid": "105 105 105 105", "Groups": "", "NoNewPrivs": "1",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	} {
		if got := status[field]; got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d (%v), want its own, %d", sid, err, pid)
	}
	checkLimits(t, pid)
	checkDescriptors(t, pid)
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("works in %q (%v)", cwd, err)
	}
	var info unix.Stat_t
	must(t, unix.Stat(fmt.Sprintf("/proc/%d/mem", pid), &info))
	if info.Uid != 0 {
		t.Error("other processes of its account may trace it")
	}
}

// checkLimits compares hard limits: soft and hard are equal.
func checkLimits(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	hard := func(name string) uint64 {
		_, line, _ := strings.Cut(string(text), name)
		fields := strings.Fields(line)
		if fields[0] != fields[1] {
			t.Errorf("%s: soft %s, hard %s", name, fields[0], fields[1])
		}
		value, err := strconv.ParseUint(fields[1], 10, 64)
		must(t, err) // "unlimited" is no number
		return value
	}
	if n := hard("Max open files"); n != maxOpenFiles {
		t.Errorf("%d open files, want %d", n, maxOpenFiles)
	}
	if n := hard("Max core file size"); n != 0 {
		t.Errorf("core dumps of %d bytes", n)
	}
	if n := hard("Max address space"); n < confined.SpareAddresses {
		t.Errorf("%d bytes of address space", n)
	}
}

// checkDescriptors wants the standard three, the gates, and what the sentry
// itself has opened, all of it sockets and the runtime's own.
func checkDescriptors(t *testing.T, pid int) {
	t.Helper()
	var got []string
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, link := range links {
		target, err := os.Readlink(link)
		must(t, err)
		fd, err := strconv.Atoi(filepath.Base(link))
		must(t, err)
		switch {
		case fd <= 2 && target == "/dev/null":
		case (fd == childGates || fd == childGates+1) && target == "anon_inode:bpf-map":
		case strings.HasPrefix(target, "socket:"), strings.HasPrefix(target, "/sys/fs/cgroup/"), target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]":
		default:
			got = append(got, fmt.Sprintf("%d → %s", fd, target))
		}
	}
	if len(got) > 0 {
		t.Errorf("open descriptors that it does not need: %v", got)
	}
}

func TestSpawnedSentryServesAndStaysSmall(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gates := newGates(t)
	opts := spawnOptions(t, gates)
	o := newOutside(t)
	newFakeDNSPort(t)
	pid, starttime := spawned(t, opts)
	eventually(t, "the gate opens", func() bool { return gateIsOpen(t, gates, 2) })
	r := &resolver{outside: o}
	conns := make([]net.Conn, 0, 200)
	for i := range cap(conns) {
		conns = append(conns, r.connect(t, links[i%len(links)]))
		if len(conns)%len(links) == 0 {
			for _, conn := range conns[len(conns)-len(links):] {
				if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != ok {
					t.Fatalf("got %v", reply)
				}
			}
		}
		if i%60 == 59 {
			for _, conn := range conns {
				conn.Close() // stay below the limits of a device
			}
		}
	}
	status := procStatus(t, pid)
	t.Logf("VmRSS %s, of it RssAnon %s, RssFile %s; VmSize %s; Threads %s",
		status["VmRSS"], status["RssAnon"], status["RssFile"], status["VmSize"], status["Threads"])
	rss, err := strconv.Atoi(strings.TrimSuffix(status["VmRSS"], " kB"))
	must(t, err)
	if rss > 20_000 && !raceDetector {
		t.Errorf("%d kB resident, want at most 20,000", rss)
	}
	must(t, Stop(pid, starttime))
	if Running(pid, starttime) {
		t.Error("runs after Stop")
	}
	if !gateIsOpen(t, gates, 2) {
		t.Error("the gate was shut by Stop")
	}
	must(t, Stop(pid, starttime))
	spawned(t, opts) // the port is free again
}

func TestSentryLivesInTheNamespaceOfTheCallingThread(t *testing.T) {
	gates := newGates(t)
	o := outside{}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var err error
		if o.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			done <- err
			return
		}
		pid, starttime, err := Spawn(spawnOptions(t, gates))
		if err == nil {
			var ours, theirs unix.Stat_t
			must(t, unix.Fstat(o.fd, &ours))
			must(t, unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &theirs))
			if ours.Ino != theirs.Ino {
				t.Error("the sentry lives in another network namespace")
			}
			err = Stop(pid, starttime)
		}
		done <- err
	}()
	must(t, <-done)
	if status := procStatus(t, os.Getpid()); status["NoNewPrivs"] != "0" || status["CapBnd"] == "0000000000000000" {
		t.Errorf("Spawn took privileges from its caller: %v", status)
	}
}

func TestSpawnReportsWhyTheSentryCannotServe(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	gates := newGates(t)
	refuses := func(what, want string, change func(*SpawnOptions)) {
		t.Helper()
		opts := spawnOptions(t, gates)
		change(&opts)
		pid, _, err := Spawn(opts)
		if err == nil || !strings.Contains(err.Error(), want) || pid != 0 {
			t.Errorf("%s: pid %d, error %v, want one with %q", what, pid, err, want)
		}
	}
	for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
		var taken interface{ Close() error }
		var err error
		if strings.HasPrefix(network, "tcp") {
			taken, err = net.Listen(network, ":9054")
		} else {
			taken, err = net.ListenPacket(network, ":9054")
		}
		must(t, err)
		refuses("port taken by "+network, "address already in use", func(*SpawnOptions) {})
		must(t, taken.Close())
	}
	refuses("no such gate", "16 gates only", func(o *SpawnOptions) { o.Config.Tors = slices.Repeat(o.Config.Tors, 6) })
	refuses("not the gates", "not the map of gates", func(o *SpawnOptions) { o.Gates = 0 })
	refuses("no descriptor", "bad file descriptor", func(o *SpawnOptions) { o.Gates = 999 })
	refuses("no port", "must not be 0", func(o *SpawnOptions) { o.Config.ResolverPort = 0 })
	refuses("everyone", "would serve everyone", func(o *SpawnOptions) { o.Config.LANPrefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} })
	refuses("dead at once", "died without a word", func(o *SpawnOptions) { o.Args = []string{roleMute} })
	refuses("silent", "did not begin within", func(o *SpawnOptions) { o.Args, o.patience = []string{roleSilent}, fast })
	children, err := filepath.Glob("/proc/self/task/*/children")
	must(t, err)
	for _, file := range children {
		if pids, err := os.ReadFile(file); err != nil || len(pids) > 0 {
			t.Errorf("processes are left: %s (%v)", pids, err)
		}
	}
}

func TestSentrySurvivesTheEndOfItsLog(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	gates := newGates(t)
	read, log, err := os.Pipe()
	must(t, err)
	must(t, read.Close())
	opts := spawnOptions(t, gates)
	opts.Log = log
	pid, starttime := spawned(t, opts)
	must(t, log.Close())
	eventually(t, "the gate opens", func() bool { return gateIsOpen(t, gates, 2) })
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(resolverPort))
	must(t, err)
	defer conn.Close()
	// Nobody is tor here, which is worth a line in the log.
	if reply := ask(t, conn, question("www.example.", dns.TypeA)); reply.Rcode != servFail {
		t.Errorf("got %v", reply)
	}
	if reply := ask(t, conn, question("www.example.", dns.TypeHTTPS)); reply.Rcode != ok || !Running(pid, starttime) {
		t.Errorf("got %v", reply)
	}
}

func TestKilledSentryLeavesTheGate(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	up(t, "lo")
	gates := newGates(t)
	pid, starttime := spawned(t, spawnOptions(t, gates))
	eventually(t, "the gate opens", func() bool { return gateIsOpen(t, gates, 2) })
	must(t, unix.Kill(pid, unix.SIGKILL))
	eventually(t, "the sentry is gone", func() bool { return !Running(pid, starttime) })
	if !gateIsOpen(t, gates, 2) {
		t.Error("the gate is shut")
	}
}
