package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// runDaemon is `torbpf run` under way in a router.
type runDaemon struct {
	cmd *exec.Cmd
	log *syncBuffer
}

// syncBuffer is what a process writes, to be read meanwhile.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// writeConfig writes a configuration file for a daemon, whose tor knows of no
// network.
func writeConfig(t testing.TB, lab *testnet.Lab, lines ...string) string {
	t.Helper()
	path := filepath.Join(lab.Dir(), "torbpf.toml")
	text := strings.Join(lines, "\n") + fmt.Sprintf("\n[tor]\ntorrc = %q\n", loneTorrc(t, lab))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// startRun starts `torbpf run` and ends it with the test, which must find that it
// obeys.
func startRun(t testing.TB, lab *testnet.Lab, file string, env ...string) *runDaemon {
	t.Helper()
	return startRunBy(t, lab.Router.Command(context.Background(), program, "run", "--config", file), env...)
}

// startRunBy is startRun with a command line of the test's own.
func startRunBy(t testing.TB, cmd *exec.Cmd, env ...string) *runDaemon {
	t.Helper()
	d := &runDaemon{cmd: cmd, log: &syncBuffer{}}
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("torbpf run: %s", d.log)
		}
		d.stop(t)
	})
	return d
}

// await returns when the daemon has logged a text.
func (d *runDaemon) await(t testing.TB, text string) {
	t.Helper()
	eventually(t, patience, "the log of "+text, func() error {
		if log := d.log.String(); !strings.Contains(log, text) {
			return fmt.Errorf("it says %s", log)
		}
		return nil
	})
}

// stop tells the daemon to end, unless it has.
func (d *runDaemon) stop(t testing.TB) {
	t.Helper()
	if d.cmd.ProcessState != nil {
		return
	}
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("torbpf run: %v: %s", err, d.log)
		}
	case <-time.After(patience):
		t.Errorf("torbpf run does not obey SIGTERM: %s", d.log)
		if err := d.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	}
}

// sound is nil when status finds everything in its place on these LANs.
func sound(t testing.TB, lab *testnet.Lab, lans ...string) error {
	t.Helper()
	var status struct {
		Problems   []string
		Interfaces []struct {
			Name       string
			AttachedBy string `json:"attached_by"`
		}
	}
	r := runTorbpf(t, lab, "status", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &status); err != nil {
		return fmt.Errorf("%w: %v", err, r)
	}
	var names []string
	for _, i := range status.Interfaces {
		if i.AttachedBy != "" {
			names = append(names, i.Name)
		}
	}
	if len(status.Problems) > 0 || !slices.Equal(names, lans) {
		return fmt.Errorf("attached to %v: %v", names, status.Problems)
	}
	return nil
}

// soon is the second in which all is repaired, and another for looking at it.
const soon = 2 * time.Second

// TestRunRepairs: whatever is taken away while `torbpf run` is there comes back by
// itself, and nothing leaks meanwhile.
func TestRunRepairs(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	w := watchLeaks(t, lab)
	detachLater(t, lab)
	startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	for _, f := range []harm{tcxGone, outGone, uplinkGone, dnsGone, tableGone, rulesetGone, forwardGone, sentryGone, torGone, pinsGone, addressChanged, lanRecreated, foreignFirst} {
		t.Run(f.name, func(t *testing.T) {
			w.Reset()
			f.inflict(t, lab)
			begin := time.Now()
			eventually(t, patience, "the repair", func() error { return sound(t, lab, lan) })
			took := time.Since(begin)
			t.Logf("sound again after %v", took.Round(10*time.Millisecond))
			if took > fairly(t, soon) {
				t.Errorf("the repair took %v", took)
			}
			noLeaks(t, w, "after the repair")
		})
	}
}

// harm takes one part of torbpf away, as a careless administrator would; the table of
// faults is internal/leaktest's.
type harm struct {
	name    string
	inflict func(*testing.T, *testnet.Lab)
}

var (
	tcxGone = harm{"tcx link gone", func(t *testing.T, lab *testnet.Lab) {
		removeAll(t, filepath.Join(pinDir(t, lab), "links", "lan-[0-9]*"))
	}}
	lanProgramGone = harm{"LAN program gone", func(t *testing.T, lab *testnet.Lab) { // on any kernel
		if by, _ := lanStatus(t, lab); by.AttachedBy == "tcx" {
			tcxGone.inflict(t, lab)
			return
		}
		run(t, lab.Router, "tc", "filter", "del", "dev", lan, "ingress")
	}}
	tableGone = harm{"nft table gone", func(t *testing.T, lab *testnet.Lab) {
		run(t, lab.Router, "nft", "delete", "table", "inet", "torbpf")
	}}
	rulesetGone = harm{"nft ruleset flushed", func(t *testing.T, lab *testnet.Lab) {
		own := run(t, lab.Router, "nft", "list", "table", "ip", "nat")
		run(t, lab.Router, "nft", "flush", "ruleset")
		cmd := lab.Router.Command(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(own)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("restore the user's rules: %v: %s", err, out)
		}
	}}
	outGone = harm{"learning program gone", func(t *testing.T, lab *testnet.Lab) {
		removeAll(t, filepath.Join(pinDir(t, lab), "links", "lan_out-*"))
	}}
	uplinkGone = harm{"uplink guard gone", func(t *testing.T, lab *testnet.Lab) {
		removeAll(t, filepath.Join(pinDir(t, lab), "links", "uplink-*"))
	}}
	dnsGone = harm{"guards of local delivery gone", func(t *testing.T, lab *testnet.Lab) {
		removeAll(t, filepath.Join(pinDir(t, lab), "links", "d*"))
	}}
	forwardGone = harm{"guard of what is forwarded gone", func(t *testing.T, lab *testnet.Lab) {
		if err := leaktest.TakeForwardGuard(t.Context(), lab.Router, filepath.Join(pinDir(t, lab), "links")); err != nil {
			t.Fatal(err)
		}
	}}
	sentryGone = harm{"sentry dead", func(t *testing.T, lab *testnet.Lab) {
		kill(t, unix.SIGKILL, pidsNamed(t, lab, "torbpf-sentry")...)
	}}
	torGone = harm{"tor dead", func(t *testing.T, lab *testnet.Lab) {
		kill(t, unix.SIGKILL, pidsNamed(t, lab, "tor")...)
	}}
	pinsGone = harm{"all pins gone", func(t *testing.T, lab *testnet.Lab) {
		if err := os.RemoveAll(pinDir(t, lab)); err != nil {
			t.Fatal(err)
		}
	}}
	addressChanged = harm{"second address", func(t *testing.T, lab *testnet.Lab) {
		run(t, lab.Router, "ip", "addr", "add", "192.168.51.1/24", "dev", lan)
	}}
	lanRecreated = harm{"interface down, renamed and back", func(t *testing.T, lab *testnet.Lab) {
		rename(t, lab, lan, "gone0")
		rename(t, lab, "gone0", lan)
	}}
	foreignFirst = harm{"foreign program first", func(t *testing.T, lab *testnet.Lab) {
		attachForeign(t, lab, lan)
	}}
)

// noLeaks lets both clients try everything and reports what got out.
func noLeaks(t *testing.T, w leakWatch, when string) {
	t.Helper()
	for _, l := range w.leaks(t) {
		t.Errorf("%s: %s", when, l)
	}
}

// rename gives an interface another name. Its IPv6 addresses go when it is down.
func rename(t *testing.T, lab *testnet.Lab, from, to string) {
	t.Helper()
	run(t, lab.Router, "ip", "link", "set", from, "down")
	run(t, lab.Router, "ip", "link", "set", from, "name", to)
	run(t, lab.Router, "ip", "link", "set", to, "up")
	for _, a := range []string{testnet.LANRouterULA.String(), testnet.LANRouter6.String()} {
		run(t, lab.Router, "ip", "addr", "add", a+"/64", "dev", to, "nodad")
	}
}

// TestRunWaitsForInterfaces: an interface that appears while nobody is there to
// attach it is blocked by its name alone, or by a pattern; then it is attached.
func TestRunWaitsForInterfaces(t *testing.T) {
	for _, name := range []string{"eth7", "lan0"} {
		t.Run(name, func(t *testing.T) {
			lab := plainLab(t, testnet.Options{})
			w := watchLeaks(t, lab)
			detachLater(t, lab)
			d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth7", "lan*"]`, `uplinks = ["eth0"]`))
			eventually(t, patience, "the block", func() error {
				if r := runTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "lan*") || !strings.Contains(r.stdout, "eth7") {
					return fmt.Errorf("status: %v", r)
				}
				return nil
			})
			if err := d.cmd.Process.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			rename(t, lab, lan, name)
			noLeaks(t, w, "before anybody could attach it")
			if err := d.cmd.Process.Signal(unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			eventually(t, patience, "attach", func() error { return sound(t, lab, name) })
			noLeaks(t, w, "attached")
		})
	}
}

func linkOf(t testing.TB, lab *testnet.Lab, name string) netlink.Link {
	t.Helper()
	l, err := lab.Router.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRunRestartsAHungTor within half a minute; clients are refused meanwhile.
func TestRunRestartsAHungTor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`))
	eventually(t, patience, "attach", func() error { return sound(t, lab, lan) })
	hung := pidsNamed(t, lab, "tor")
	kill(t, unix.SIGSTOP, hung...)
	begin := time.Now()
	eventually(t, 30*time.Second, "another tor", func() error {
		if pids := pidsNamed(t, lab, "tor"); len(pids) != 1 || pids[0] == hung[0] {
			return fmt.Errorf("tor is %v", pids)
		}
		return sound(t, lab, lan)
	})
	t.Logf("tor was replaced after %v", time.Since(begin).Round(time.Second))
}
