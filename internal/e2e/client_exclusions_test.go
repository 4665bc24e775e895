package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// excludedUser has a rule of its own.
const excludedUser = 4712

// clientLab is a router in client mode whose Tor never gets ready: what is Tor's is refused.
func clientLab(t *testing.T) *testnet.Lab {
	t.Helper()
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Web4, testnet.Web6)
	attach(t, lab, "--client", "--no-wait", "--torrc", loneTorrc(t, lab))
	return lab
}

// both runs a check for the web server's addresses of both families.
func both(check func(netip.Addr) error) error {
	return errors.Join(check(testnet.Web4), check(testnet.Web6))
}

// checkExclusion wants the web server refused to a process, but direct while a rule is in
// force; when that goes its connections end at once, without a packet more.
func checkExclusion(t *testing.T, lab *testnet.Lab, s *speaker, rule ...string) {
	t.Helper()
	if err := both(s.refused); err != nil {
		t.Errorf("before: %v", err)
	}
	mustTorbpf(t, lab, append([]string{"exclude", "add"}, rule...)...)
	if err := both(s.direct); err != nil {
		t.Errorf("in force: %v", err)
	}
	names := openMany(t, s)
	mustTorbpf(t, lab, append([]string{"exclude", "del"}, rule...)...)
	capture := captureWAN(t, lab)
	for _, name := range names {
		if _, err := s.say("echo %s", name); err == nil {
			t.Errorf("%s is still answered", name)
		}
	}
	if err := both(s.refused); err != nil {
		t.Errorf("after: %v", err)
	}
	checkNoLeaks(t, capture)
}

// openMany has a process open connections to the web server, by both protocols and families.
func openMany(t testing.TB, s *speaker) []string {
	t.Helper()
	var names []string
	for _, addr := range []netip.Addr{testnet.Web4, testnet.Web6} {
		for network, port := range map[string]uint16{"tcp": portFlows, "udp": testnet.PortEcho} {
			name := fmt.Sprintf("%s-%v", network, addr)
			s.must(t, "open %s %s %v", name, network, at(addr, port))
			s.must(t, "echo %s", name)
			names = append(names, name)
		}
	}
	return names
}

// TestClientExclusionsOfDestinations are for whoever sends.
func TestClientExclusionsOfDestinations(t *testing.T) {
	lab := clientLab(t)
	s := startSpeaker(t, lab, someone, "")
	t.Run("prefix", func(t *testing.T) { checkExclusion(t, lab, s, "--client", "51.20.0.0/16", "2a0e:20::/32") })
	t.Run("mark", func(t *testing.T) {
		userRules(t, lab, "inet", `chain marks { type route hook output priority -150;
			ip daddr 51.20.0.80 meta mark set meta mark and 0xffff00ff or 0x200
			ip6 daddr 2a0e:20::80 meta mark set meta mark and 0xffff00ff or 0x200
		}`)
		checkExclusion(t, lab, s, "--client", "--mark", "0x200/0xff00")
	})
	t.Run("port", func(t *testing.T) {
		mustTorbpf(t, lab, "exclude", "add", "--client", "--port", "7/udp")
		for _, addr := range []netip.Addr{testnet.Web4, testnet.Other6} {
			if _, err := s.say("try udp %v", at(addr, testnet.PortEcho)); err != nil {
				t.Errorf("%v: %v", addr, err)
			}
			if _, err := s.say("try udp %v", at(addr, testnet.PortHTTPS)); err == nil {
				t.Errorf("%v answers datagrams at another port", addr)
			}
		}
		mustTorbpf(t, lab, "exclude", "del", "--client", "--port", "7/udp")
		if err := both(s.refused); err != nil {
			t.Error(err)
		}
	})
}

// TestExclusionsOfAttachAreOfThisMachineAlone where no device is on Tor, and of devices where some
// are.
func TestExclusionsOfAttachAreOfThisMachineAlone(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	flags := []string{"--client", "--no-wait", "--torrc", loneTorrc(t, lab)}
	attach(t, lab, append(flags, "--exclude", "51.20.0.0/16,2a0e:20::/32")...)
	s := startSpeaker(t, lab, someone, "")
	if err := both(s.direct); err != nil {
		t.Error(err)
	}
	mustTorbpf(t, lab, "attach", lan, "--no-wait", "--exclude", other4)
	if _, err := s.say("get %v", testnet.Other4); err == nil {
		t.Error("what was excluded with a LAN is direct for this machine")
	}
	checkDirect(t, lab.Client1, testnet.Other4)
	if err := both(s.direct); err != nil {
		t.Errorf("with a LAN: %v", err)
	}
}

// TestClientExclusionsOfSenders are for one user, program or control group.
func TestClientExclusionsOfSenders(t *testing.T) {
	lab := clientLab(t)
	other := startSpeaker(t, lab, someone, "")
	t.Run("user", func(t *testing.T) {
		checkExclusion(t, lab, startSpeaker(t, lab, excludedUser, ""), "--user", fmt.Sprint(excludedUser))
	})
	t.Run("program", func(t *testing.T) {
		file := speakerIn(t, lab, "excluded-speaker")
		checkExclusion(t, lab, startSpeaker(t, lab, someone, file), "--program", file)
	})
	t.Run("control group", func(t *testing.T) {
		s := startSpeaker(t, lab, someone, "")
		group := joinGroup(t, s)
		checkExclusion(t, lab, s, "--cgroup", group)
	})
	t.Run("others", func(t *testing.T) {
		mustTorbpf(t, lab, "exclude", "add", "--user", fmt.Sprint(excludedUser))
		if err := both(other.refused); err != nil {
			t.Errorf("another user: %v", err)
		}
	})
}

// joinGroup puts a process into a control group of its own and returns its path.
func joinGroup(t *testing.T, s *speaker) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		words := strings.Fields(line)
		if len(words) < 3 || words[2] != "cgroup2" {
			continue
		}
		group := fmt.Sprintf("/e2e-%d", time.Now().UnixNano())
		dir := filepath.Join(words[1], group)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = s.cmd.Process.Kill(), s.cmd.Wait()
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(s.cmd.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		return group
	}
	t.Fatal("there are no control groups of version 2")
	return ""
}

// TestClientExclusionsEndWithAllDead: a rule's time is over though nothing of torbpf's is
// alive to see it.
func TestClientExclusionsEndWithAllDead(t *testing.T) {
	const life = 4 * time.Second
	for _, test := range []struct {
		name string
		rule []string
	}{
		{"destination", []string{"--client", "51.20.0.0/16", "2a0e:20::/32"}},
		{"user", []string{"--user", fmt.Sprint(excludedUser)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := clientLab(t)
			s := startSpeaker(t, lab, excludedUser, "")
			begin := time.Now()
			mustTorbpf(t, lab, append([]string{"exclude", "add", "--for", life.String()}, test.rule...)...)
			ends := time.Now().Add(life) // at the latest
			names := openMany(t, s)
			kill(t, unix.SIGKILL, ourProcesses(t, lab)...)
			for _, name := range names {
				s.must(t, "echo %s", name)
			}
			if time.Since(begin) > life {
				t.Fatal("this machine is too slow for this test")
			}
			eventually(t, patience, "the end of the rule", func() error {
				if time.Now().Before(ends) {
					return errors.New("its time is not over")
				}
				return nil
			})
			capture := captureWAN(t, lab)
			for _, name := range names {
				if _, err := s.say("echo %s", name); err == nil {
					t.Errorf("%s is still answered", name)
				}
			}
			if err := both(s.refused); err != nil {
				t.Error(err)
			}
			checkNoLeaks(t, capture)
		})
	}
}

// TestAnUpgradedProgramStaysExcluded: a package puts a new file in the place of the old one.
// Who still runs that is like anybody else.
func TestAnUpgradedProgramStaysExcluded(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	file := speakerIn(t, lab, "upgraded-speaker")
	startRun(t, lab, writeConfig(t, lab, "[client]", "enable = true", "[client.exclusions]", fmt.Sprintf("programs = [%q]", file)))
	eventually(t, patience, "attach", func() error { return sound(t, lab) })
	old := startSpeaker(t, lab, someone, file)
	if err := both(old.direct); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(speakerIn(t, lab, "upgraded-speaker.new"), file); err != nil {
		t.Fatal(err)
	}
	upgraded := startSpeaker(t, lab, someone, file)
	eventually(t, patience, "the new file", func() error { return both(upgraded.direct) })
	if err := both(old.refused); err != nil {
		t.Errorf("who runs the old file: %v", err)
	}
}
