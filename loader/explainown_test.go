package loader

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// ownExplainer is that of the programs in force.
func ownExplainer(t *testing.T, d *Datapath) *OwnExplainer {
	t.Helper()
	e, err := d.OwnExplainer()
	must(t, err)
	t.Cleanup(e.Close)
	return e
}

// testCopy makes a copy of the test binary, of that name, which every user may run.
func testCopy(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "copy")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	text, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, text, 0o755))
	return path
}

// toldMark is the mark that a sender's sockets get, by what is told.
func toldMark(t *testing.T, e *OwnExplainer, who Sender) uint32 {
	t.Helper()
	r, ok, err := e.Sender(who)
	must(t, err)
	switch {
	case !ok:
		return markNone
	case r.Policy != abi.PolicyDirect:
		return markTor
	case r.Tor:
		return markBesideTor // no program here has tor's name
	}
	return markDirect
}

// TestSendersAreToldAsTheProgramsJudgeThem has processes of several users, programs and control
// groups make sockets under random rules about them, some of which have ended.
func TestSendersAreToldAsTheProgramsJudgeThem(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	copied := testCopy(t, "copied")
	outer := testCgroup(t, "told")
	inner := testCgroup(t, "told/inner")
	now, err := kernel.BootTime()
	must(t, err)
	dice := rand.New(rand.NewPCG(3, 5))
	met := make(map[uint32]int)
	for range 12 {
		p := l.clientPlan(someIdentities(t, dice, now, copied, outer, inner)...)
		apply(t, d, p)
		e := ownExplainer(t, d)
		if !e.JudgesAll() {
			t.Fatal("it is told that not all is judged")
		}
		for _, m := range []socketMaker{
			{user: 4712}, {user: 4713}, {user: 4712, program: copied}, {user: 4712, cgroup: outer}, {user: 4713, cgroup: inner, program: copied},
		} {
			marks := m.marks(t)
			if told := toldMark(t, e, senderOf(t, m)); len(marks) != 1 || marks[0] != told {
				t.Errorf("%+v under %+v: told the mark %#x, its sockets have %#x", m, p.Client.Identities, told, marks)
			}
			met[marks[0]]++
		}
	}
	for _, mark := range []uint32{markNone, markDirect, markTor, markBesideTor} {
		if met[mark] == 0 {
			t.Errorf("no socket got the mark %#x", mark)
		}
	}
}

// TestTorItselfIsMarkedApart by its user and by its control group, and so is what runs beside it; who
// else is direct is not, whatever name it has.
func TestTorItselfIsMarkedApart(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	group, other := testCgroup(t, "apart"), testCgroup(t, "beside")
	byUser, byGroup := user(4712, config.PolicyDirect), inCgroup(t, group, config.PolicyDirect)
	byUser.Tor, byGroup.Tor = true, true
	apply(t, d, l.clientPlan(byUser, byGroup, user(4713, config.PolicyDirect), inCgroup(t, other, config.PolicyDirect)))
	tor := testCopy(t, "tor")
	for _, c := range []struct {
		maker socketMaker
		want  uint32
	}{
		{socketMaker{user: 4712, program: tor}, markOfTor}, {socketMaker{user: 4713, cgroup: group, program: tor}, markOfTor},
		{socketMaker{user: 4712}, markBesideTor}, {socketMaker{user: 4713, cgroup: group}, markBesideTor},
		{socketMaker{user: 4713, program: tor}, markDirect}, {socketMaker{user: 4712, cgroup: other}, markDirect}, {socketMaker{user: 0}, markNone},
	} {
		if marks := c.maker.marks(t); len(marks) != 1 || marks[0] != c.want {
			t.Errorf("%+v: its sockets have the marks %#x, want %#x", c.maker, marks, c.want)
		}
	}
}

// someIdentities are rules about who makes sockets in the test above.
func someIdentities(t *testing.T, dice *rand.Rand, now time.Duration, file, outer, inner string) []plan.Identity {
	all := []plan.Identity{
		user(4712, config.PolicyDirect), user(4713, config.PolicyDirect), program(t, file, config.PolicyDirect),
		inCgroup(t, outer, config.PolicyDirect), inCgroup(t, inner, config.PolicyDirect),
	}
	var out []plan.Identity
	for i, id := range all {
		switch dice.IntN(6) {
		case 0, 1:
			continue
		case 2:
			id.Policy = config.PolicyTor
		case 3:
			id.Ends = now
			id.ThenTor = dice.IntN(2) == 0
		}
		if i == 0 || i == 3 {
			id.Tor = dice.IntN(2) == 0
		}
		out = append(out, id)
	}
	return out
}

func senderOf(t *testing.T, m socketMaker) Sender {
	t.Helper()
	file := m.program
	if file == "" {
		file = "/proc/self/exe"
	}
	who := Sender{User: &m.user, Program: program(t, file, config.PolicyDirect).Program}
	if m.cgroup == "" {
		return who
	}
	for group := m.cgroup; ; group = filepath.Dir(group) {
		who.Cgroups = append(who.Cgroups, inCgroup(t, group, config.PolicyDirect).Cgroup)
		if filepath.Base(filepath.Dir(group)) == "cgroup" || filepath.Dir(group) == "/" {
			return who
		}
	}
}

// TestTheShortWayIsToldAsItIsTaken by connections to random destinations under random detours.
func TestTheShortWayIsToldAsItIsTaken(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	transPort(t)
	p := l.shortcutPlan(t)
	dice := rand.New(rand.NewPCG(11, 13))
	addrs := []string{
		"51.20.0.80", "51.20.1.80", "9.9.9.9", "10.8.0.1", "192.168.7.7", "169.254.7.7", "127.0.0.1", "100.64.0.1", "224.0.0.9",
		"2620:fe::9", "2a0e:20::80", "fd99::7", "fe80::7", "::1", "ff02::9", "2001:db8::1",
	}
	for _, a := range p.LocalAddrs {
		addrs = append(addrs, a.String())
	}
	met := make(map[bool]int)
	for range 6 {
		s := &plan.Shortcut{TorGroup: p.Client.Shortcut.TorGroup}
		for _, prefix := range []string{"51.20.0.0/24", "9.0.0.0/8", "2a0e::/16", "51.20.1.80/32"} {
			if dice.IntN(2) == 0 {
				s.Detours = append(s.Detours, netip.MustParsePrefix(prefix))
			}
		}
		for _, port := range []uint16{22, 443} {
			if dice.IntN(2) == 0 {
				s.Ports = append(s.Ports, port)
			}
		}
		p.Client.Shortcut = s
		apply(t, d, p)
		e := ownExplainer(t, d)
		for range 60 {
			to := netip.AddrPortFrom(netip.MustParseAddr(addrs[dice.IntN(len(addrs))]), []uint16{22, 53, 80, 443}[dice.IntN(4)])
			mark := []uint32{0, 0, 0, 0x200}[dice.IntN(4)]
			class := []abi.Verdict{abi.VerdictNone, abi.VerdictNone, abi.VerdictTor, abi.VerdictDirect}[dice.IntN(4)]
			told, err := e.ShortWay(to, mark, class)
			must(t, err)
			if taken := takesShortWay(t, to, mark|uint32(class)<<24); taken != told {
				t.Errorf("to %v, mark %#x, class %s: told %t, it is %t; under %+v", to, mark, class, told, taken, *s)
			}
			met[told]++
		}
	}
	if met[true] == 0 || met[false] == 0 {
		t.Errorf("the short way was taken or not: %v", met)
	}
}

// takesShortWay connects, and tells whether it was led to TransPort: a socket that was knows
// another peer than getpeername() tells.
func takesShortWay(t *testing.T, to netip.AddrPort, mark uint32) bool {
	t.Helper()
	fd := socketTo(t, to)
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	_ = unix.Connect(fd, sockaddr(to)) // where no route leads it fails, and was not led anywhere
	sa, err := unix.Getsockname(fd)
	local := addrPort(t, sa, err)
	return local.Addr().IsLoopback() && !to.Addr().IsLoopback()
}
