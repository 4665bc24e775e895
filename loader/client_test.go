package loader

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

const (
	markNone    = uint32(0)
	markDirect  = uint32(abi.VerdictDirect) << 24
	markInbound = uint32(abi.VerdictInbound) << 24
	markTor     = uint32(abi.VerdictTor) << 24
)

// clientPlan is the lab's plan in client mode, for all that this machine sends; at no uplink
// is a guard.
func (l *lab) clientPlan(identities ...plan.Identity) *plan.Plan {
	p := l.plan()
	p.Uplinks = nil
	p.Client = &plan.Client{All: true, Identities: identities}
	return p
}

func user(id uint32, policy config.Policy) plan.Identity {
	return plan.Identity{Kind: config.KindUser, User: id, Policy: policy}
}

func program(t *testing.T, path string, policy config.Policy) plan.Identity {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return plan.Identity{Kind: config.KindProgram, Policy: policy, Program: plan.FileID{Major: unix.Major(s.Dev), Minor: unix.Minor(s.Dev), Inode: s.Ino}}
}

// testCgroup makes a control group, which is gone when the test ends.
func testCgroup(t *testing.T, name string) string {
	t.Helper()
	root, err := cgroup.Tree()
	must(t, err)
	path := filepath.Join(root, fmt.Sprintf("torbpf-test-%d", os.Getpid()), name)
	must(t, os.MkdirAll(path, 0o755))
	t.Cleanup(func() {
		for dir := path; dir != root; dir = filepath.Dir(dir) {
			os.Remove(dir) // another test's groups may be in it
		}
	})
	return path
}

func inCgroup(t *testing.T, path string, policy config.Policy) plan.Identity {
	t.Helper()
	id, err := cgroup.ID(path, "/")
	must(t, err)
	return plan.Identity{Kind: config.KindCgroup, Cgroup: id, Policy: policy}
}

// socketMaker is a process that opens sockets and says which marks they get.
type socketMaker struct {
	user    uint32
	cgroup  string // "": that of the test
	program string // "": that of the test
}

// marks are those of a process's sockets, each once.
func (m socketMaker) marks(t *testing.T) []uint32 {
	t.Helper()
	path := m.program
	if path == "" {
		path = "/proc/self/exe"
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), childDoes+"=marks -")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: m.user, Gid: m.user, NoSetGroups: true}, AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
	if m.cgroup != "" {
		group, err := os.Open(m.cgroup)
		must(t, err)
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make sockets as %+v: %v: %s", m, err, out)
	}
	var marks []uint32
	for line := range strings.Lines(string(out)) {
		var mark uint32
		if _, err := fmt.Sscanf(line, "%x", &mark); err != nil {
			t.Fatalf("read mark %q: %v", line, err)
		}
		marks = append(marks, mark)
	}
	return slices.Compact(marks)
}

// printMarks is what the process does: sockets of each kind.
func printMarks(w io.Writer) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		icmp := unix.IPPROTO_ICMP
		if family == unix.AF_INET6 {
			icmp = unix.IPPROTO_ICMPV6
		}
		for _, kind := range []struct{ kind, protocol int }{
			{unix.SOCK_STREAM, 0}, {unix.SOCK_DGRAM, 0}, {unix.SOCK_RAW, icmp}, {unix.SOCK_RAW, unix.IPPROTO_RAW},
		} {
			mark, err := markOfNew(family, kind.kind, kind.protocol)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%x\n", mark)
		}
	}
	return nil
}

func markOfNew(family, kind, protocol int) (uint32, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, fmt.Errorf("open socket of family %d, kind %d: %w", family, kind, err)
	}
	defer unix.Close(fd)
	mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	return uint32(mark), err
}

// expectNew wants the sockets that this thread makes to get a mark.
func expectNew(t *testing.T, what string, want uint32) {
	t.Helper()
	got, err := markOfNew(unix.AF_INET, unix.SOCK_STREAM, 0)
	must(t, err)
	if got != want {
		t.Errorf("%s: a new socket has mark %#x, want %#x", what, got, want)
	}
}

// otherProgram is a copy of the test, which is another program to the kernel.
func otherProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(path, self, 0o755))
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // another user runs it
	}
	return path
}

func TestSocketsGetTheirMakersClass(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	exempt, once := otherProgram(t), otherProgram(t)
	outer, inner := testCgroup(t, "outer"), testCgroup(t, "outer/inner/deep")
	tor, ended := testCgroup(t, "tor"), testCgroup(t, "outer/ended")
	nested := testCgroup(t, "outer/nested/deep")
	past, pastProgram := inCgroup(t, ended, config.PolicyTor), program(t, once, config.PolicyDirect)
	past.Ends, pastProgram.Ends = 1, 1
	g := guards(t, d, l.clientPlan(user(65501, config.PolicyDirect), user(65502, config.PolicyTor), user(0, config.PolicyTor), user(65503, config.PolicyDirect),
		program(t, exempt, config.PolicyDirect), inCgroup(t, outer, config.PolicyDirect), inCgroup(t, tor, config.PolicyTor),
		inCgroup(t, filepath.Dir(nested), config.PolicyTor), past, pastProgram))
	for _, u := range g.Unsupported() {
		if strings.Contains(u, "exemptions") {
			t.Fatalf("unsupported: %s", u)
		}
	}
	for _, c := range []struct {
		name string
		by   socketMaker
		want uint32
	}{
		{"a stranger", socketMaker{user: 65500}, markNone},
		{"a user", socketMaker{user: 65501}, markDirect},
		{"a user, through Tor", socketMaker{user: 65502}, markTor},
		{"a program", socketMaker{user: 65500, program: exempt}, markDirect},
		{"a program whose rule has ended", socketMaker{user: 65500, program: once}, markNone},
		{"a program comes before its user", socketMaker{user: 65502, program: exempt}, markDirect},
		{"a control group", socketMaker{user: 65500, cgroup: outer}, markDirect},
		{"a control group within", socketMaker{user: 65500, cgroup: inner}, markDirect},
		{"the nearest of two control groups", socketMaker{user: 65500, cgroup: nested}, markTor},
		{"a control group comes before its user", socketMaker{user: 65502, cgroup: outer}, markDirect},
		{"and before its program", socketMaker{user: 65501, program: exempt, cgroup: tor}, markTor},
		{"the rule of a control group has ended", socketMaker{user: 65500, cgroup: ended}, markDirect},
	} {
		if got := c.by.marks(t); !slices.Equal(got, []uint32{c.want}) {
			t.Errorf("%s: its sockets have the marks %#x, want %#x", c.name, got, c.want)
		}
	}
	expectNew(t, "root", markTor)
	must(t, l.server.do(func() error {
		mark, err := markOfNew(unix.AF_INET, unix.SOCK_STREAM, 0)
		if mark != 0 {
			t.Errorf("in another network namespace a socket has mark %#x", mark)
		}
		return err
	}))
}

func TestAnIdentityEndsByTheBootClock(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	now, err := kernel.BootTime()
	must(t, err)
	root := user(0, config.PolicyDirect)
	root.Ends = now + time.Hour
	guards(t, d, l.clientPlan(root))
	expectNew(t, "before its end", markDirect)
	root.Ends = now
	guards(t, d, l.clientPlan(root))
	expectNew(t, "after its end", markNone)
	root.Ends = now + 2*time.Second
	guards(t, d, l.clientPlan(root))
	await(t, "the end of the exemption", func() bool {
		mark, err := markOfNew(unix.AF_INET, unix.SOCK_STREAM, 0)
		must(t, err)
		return mark == markNone
	})
	later, err := kernel.BootTime()
	must(t, err)
	if later < root.Ends {
		t.Errorf("it ended at %s, want it to do so at %s", later, root.Ends)
	}
}

// TestAnIdentityEndsIntoWhatIsBeneathIt: its sockets are Tor's, and no wider rule's.
func TestAnIdentityEndsIntoWhatIsBeneathIt(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	own, err := os.Readlink("/proc/self/exe")
	must(t, err)
	over := program(t, own, config.PolicyDirect)
	over.Ends, over.ThenTor = 1, true
	guards(t, d, l.clientPlan(user(0, config.PolicyDirect), over))
	expectNew(t, "after its end", markTor)
	over.ThenEnds = 1
	guards(t, d, l.clientPlan(user(0, config.PolicyDirect), over))
	expectNew(t, "after the end of both", markDirect)
}

// TestConnectMarksAnOlderSocket: one that is there before the programs.
func TestConnectMarksAnOlderSocket(t *testing.T) {
	needCookie(t)
	for _, c := range []struct {
		name      string
		has, want uint32
		policy    config.Policy
	}{
		{"none, direct", 0x35, 0x35 | markDirect, config.PolicyDirect},
		{"none, tor", 0x35, 0x35 | markTor, config.PolicyTor},
		{"tor, direct", markTor, markTor, config.PolicyDirect},
		{"direct, tor", markDirect | 0x8000, markTor | 0x8000, config.PolicyTor},
		{"inbound, tor", markInbound, markTor, config.PolicyTor},
		{"inbound, direct", markInbound | 0x35, markDirect | 0x35, config.PolicyDirect},
		{"inbound, for a stranger", markInbound | 0x35, 0x35, ""},
		{"direct, for a stranger", markDirect, markDirect, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			d := l.open(t, false)
			for _, to := range []unix.Sockaddr{&unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}, &unix.SockaddrInet6{Port: 9, Addr: [16]byte{15: 1}}} {
				family := unix.AF_INET
				if _, ok := to.(*unix.SockaddrInet6); ok {
					family = unix.AF_INET6
				}
				must(t, d.detachClient())
				fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				must(t, err)
				defer unix.Close(fd)
				must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(c.has)))
				identity := user(0, c.policy)
				if c.policy == "" {
					identity = user(65501, config.PolicyTor)
				}
				guards(t, d, l.clientPlan(identity))
				must(t, unix.Connect(fd, to))
				if mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || uint32(mark) != c.want {
					t.Errorf("connected with mark %#x, %v; want %#x", mark, err, c.want)
				}
			}
		})
	}
}

// TestPoliciesAreExchangedUnderTheSockets: there is no instant without.
func TestPoliciesAreExchangedUnderTheSockets(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	guards(t, d, l.clientPlan(user(0, config.PolicyDirect)))
	before := clientLinks(t, d)
	done, bare, ns := make(chan struct{}), make(chan error, 1), here(t)
	go func() {
		bare <- ns.do(func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				if mark, err := markOfNew(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil || mark != markDirect {
					return fmt.Errorf("a socket has mark %#x: %w", mark, err)
				}
			}
		})
	}()
	for range 5 {
		guards(t, d, l.clientPlan(user(0, config.PolicyDirect)))
	}
	close(done)
	must(t, <-bare)
	if after := clientLinks(t, d); !slices.Equal(before, after) {
		t.Errorf("the links were %v and are %v", before, after)
	}
}

// longWayPrograms are those of a plan without the short way.
func longWayPrograms() []clientProgram {
	return slices.DeleteFunc(slices.Clone(clientPrograms), func(c clientProgram) bool { return c.shortcut })
}

func clientLinks(t *testing.T, d *Datapath) (ids []link.ID) {
	t.Helper()
	for _, c := range longWayPrograms() {
		l, err := openLink(d.linkPin(c.pin))
		must(t, err)
		info, err := l.Info()
		must(t, err)
		ids = append(ids, info.ID)
		must(t, l.Close())
	}
	return ids
}

// clientAttached are the programs at the root of the control groups.
func clientAttached(t *testing.T) (ids []ebpf.ProgramID) {
	t.Helper()
	path, err := cgroup.Tree()
	must(t, err)
	root, err := os.Open(path)
	must(t, err)
	defer root.Close()
	for _, c := range clientPrograms {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(root.Fd()), Attach: c.attach})
		must(t, err)
		for _, p := range found.Programs {
			ids = append(ids, p.ID)
		}
	}
	return ids
}
