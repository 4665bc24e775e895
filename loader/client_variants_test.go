package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// needCookie is for what client mode takes (Linux 5.14).
func needCookie(t *testing.T) {
	t.Helper()
	cookie, err := kernel.NamespaceCookie()
	must(t, err)
	if cookie == 0 {
		t.Skip("this kernel is older than cookies of network namespaces (Linux 5.14)")
	}
}

// TestClientModeIsRefusedWithoutACookie and nothing else is.
func TestClientModeIsRefusedWithoutACookie(t *testing.T) {
	cookie, err := kernel.NamespaceCookie()
	must(t, err)
	l := newLab(t)
	d := l.open(t, false)
	_, err = d.ApplyGuards(l.clientPlan())
	if refused := errors.Is(err, kernel.ErrMissing); refused != (cookie == 0) {
		t.Errorf("with the cookie %d client mode gives %v", cookie, err)
	}
	apply(t, d, l.plan())
}

func TestClientModeLeavesNothingAttached(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	for _, end := range []struct {
		name string
		end  func()
	}{
		{"remove", func() { must(t, d.Remove()) }},
		{"a plan without", func() { apply(t, d, l.plan()) }},
	} {
		before := clientAttached(t) // another's
		apply(t, d, l.clientPlan(user(0, config.PolicyDirect)))
		ours := clientAttached(t)
		if len(ours) < len(before)+len(longWayPrograms()) {
			t.Fatalf("%d programs are attached, of %d others", len(ours), len(before))
		}
		expectNew(t, "attached", markDirect)
		end.end()
		expectNew(t, end.name, markNone)
		for _, id := range clientAttached(t) {
			if !slices.Contains(before, id) && slices.Contains(ours, id) {
				t.Errorf("%s: program %d stays attached", end.name, id)
			}
		}
		if missing, err := d.Missing(l.plan()); err != nil || slices.Contains(missing, "client_sock") {
			t.Errorf("%s: missing are %v, %v", end.name, missing, err)
		}
	}
}

func TestWhatIsMissingOfClientModeIsNamedAndMended(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	p := l.clientPlan(user(0, config.PolicyDirect))
	apply(t, d, p)
	for _, c := range longWayPrograms() {
		for _, loss := range []func(string) error{removeLink, detachOnly} {
			must(t, loss(d.linkPin(c.pin)))
			missing, err := d.Missing(p)
			must(t, err)
			if !slices.Equal(onlyClient(missing), []string{c.pin}) {
				t.Errorf("without %s, missing are %v", c.pin, missing)
			}
			g, err := d.Reopen(p)
			must(t, err)
			must(t, errors.Join(g.AttachLANs(), g.Close()))
			if missing, err := d.Missing(p); err != nil || len(onlyClient(missing)) > 0 {
				t.Errorf("mended, missing are %v, %v", missing, err)
			}
		}
	}
	expectNew(t, "mended", markDirect)
}

// detachOnly leaves the pin of a link that has no effect any more.
func detachOnly(pin string) error {
	l, err := openLink(pin)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Detach()
}

func onlyClient(missing []string) []string {
	return slices.DeleteFunc(missing, func(name string) bool {
		return !slices.ContainsFunc(clientPrograms, func(c clientProgram) bool { return c.pin == name })
	})
}

// TestBareProgramsKnowUsersAndControlGroups: those for a kernel whose memory is closed.
func TestBareProgramsKnowUsersAndControlGroups(t *testing.T) {
	needCookie(t)
	l := newLab(t)
	d := l.open(t, false)
	for _, c := range []struct {
		policy         config.Policy
		made, connects uint32
	}{
		{config.PolicyDirect, markDirect, markNone}, // root may be a kernel thread
		{config.PolicyTor, markTor, markTor},
	} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		g := guards(t, d, l.clientPlan(user(0, c.policy)))
		attachBare(t, g)
		expectNew(t, "bare", c.made)
		must(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}))
		if mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || uint32(mark) != c.connects {
			t.Errorf("an older socket has mark %#x, %v; want %#x", mark, err, c.connects)
		}
		must(t, unix.Close(fd))
		must(t, d.detachClient())
	}
}

// attachBare puts the other variant under a generation's links, as where the kernel
// refuses the first.
func attachBare(t *testing.T, g *Generation) {
	t.Helper()
	cookie, err := kernel.NamespaceCookie()
	must(t, err)
	spec, err := g.clientSpec(cookie)
	must(t, err)
	for _, c := range clientPrograms {
		if c.bare != "" {
			spec.Programs[c.full].Instructions = asm.Instructions{asm.LoadMem(asm.R0, asm.R1, 4096, asm.DWord), asm.Return()}
		}
	}
	collection, err := g.loadFullOrBare(spec)
	must(t, err)
	defer collection.Close()
	if !slices.ContainsFunc(g.Unsupported(), func(text string) bool { return strings.Contains(text, "BTF") }) {
		t.Errorf("what the kernel lacks is not said: %v", g.Unsupported())
	}
	must(t, g.attachClientPrograms(collection))
}

// TestOfSeveralRulesForOneTheStrictestCounts: what is Tor's, then what lasts longest.
func TestOfSeveralRulesForOneTheStrictestCounts(t *testing.T) {
	tor, direct := user(7, config.PolicyTor), user(7, config.PolicyDirect)
	soon, later := direct, direct
	soon.Ends, later.Ends, direct.Rule = 10, 20, -1
	over := soon
	over.ThenTor = true
	for _, c := range []struct {
		rules  []plan.Identity
		policy abi.Policy
		ends   uint64
	}{
		{[]plan.Identity{tor, direct}, abi.PolicyTor, 0},
		{[]plan.Identity{direct, tor}, abi.PolicyTor, 0},
		{[]plan.Identity{soon, later}, abi.PolicyDirect, 20},
		{[]plan.Identity{later, soon}, abi.PolicyDirect, 20},
		{[]plan.Identity{direct, soon}, abi.PolicyDirect, 0},
		{[]plan.Identity{soon, direct}, abi.PolicyDirect, 0},
		{[]plan.Identity{direct, over}, abi.PolicyDirect, 10},
		{[]plan.Identity{over, direct}, abi.PolicyDirect, 10},
	} {
		if got := identityRules(c.rules)[identityOf(tor)]; got.Policy != c.policy || got.UntilNs != c.ends {
			t.Errorf("of %+v counts %+v", c.rules, got)
		}
	}
}
