package nft

import (
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/plan"
)

// enterFreshNetNS moves the test to a network namespace of its own. The thread
// stays locked, so that it ends with the test and nobody else gets it.
func enterFreshNetNS(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (these tests need root): %v", err)
	}
}

// nft runs the nft program in the namespace of the calling thread.
func nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := runNft(stdin, args...)
	if err != nil {
		t.Fatalf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// lacksLookUps tells whether this kernel can have the plan's table only without what looks
// routes up at input and forward, see lacksLookUp.
func lacksLookUps(t *testing.T, p *plan.Plan) bool {
	t.Helper()
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	return version < 5<<16|14<<8 && (&builder{Plan: p}).looksUp()
}

func needLookUps(t *testing.T, p *plan.Plan) {
	t.Helper()
	if lacksLookUps(t, p) {
		t.Skip("this kernel looks routes up at prerouting only (Linux 5.14)")
	}
}

// load gives rules to nft.
func load(t *testing.T, rules string) {
	t.Helper()
	nft(t, rules, "-f", "-")
}

func runNft(stdin string, args ...string) (string, error) {
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// node is a host beside the router: a network namespace.
type node struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{}
	err := onOwnThread(func() (err error) {
		if n.ns, err = netns.New(); err != nil {
			return err
		}
		n.nl, err = prepareNode()
		return err
	})
	if err != nil {
		t.Fatalf("make a network namespace (these tests need root): %v", err)
	}
	t.Cleanup(func() {
		n.nl.Close()
		n.ns.Close()
	})
	return n
}

// do runs fn inside the node. Sockets that fn opens stay there.
func (n *node) do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return fn()
	})
}

// load gives rules to nft inside the node.
func (n *node) load(t *testing.T, rules string) {
	t.Helper()
	n.nft(t, rules, "-f", "-")
}

func (n *node) nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	var out string
	err := n.do(func() (err error) {
		out, err = runNft(stdin, args...)
		return err
	})
	if err != nil {
		t.Fatalf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// onOwnThread runs fn on a thread that nobody uses after it.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

var packetsPattern = regexp.MustCompile(`packets (\d+)`)

func matches(text, pattern string) bool { return regexp.MustCompile(pattern).MatchString(text) }
