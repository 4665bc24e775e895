package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

// lanStatus is what status says of the first LAN, and of everything in words.
func lanStatus(t *testing.T, lab *testnet.Lab) (router.InterfaceStatus, router.Status) {
	t.Helper()
	var s router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Interfaces) != 1 || s.Interfaces[0].Name != lan {
		t.Fatalf("the LANs are %+v", s.Interfaces)
	}
	return s.Interfaces[0], s
}

// TestEarlyRefusal: as asked for, where it can be had, seen in status, repaired, and gone
// with torbpf; and nothing gets out by it.
func TestEarlyRefusal(t *testing.T) {
	lab := freshLab(t)
	before := takeSnapshot(t, lab)
	w := watchLeaks(t, lab)
	early := func(mode string) result {
		t.Helper()
		return mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab), "--early-refusal", mode)...)
	}
	detachLater(t, lab)
	early("auto")
	if l, _ := lanStatus(t, lab); l.Early != "off" || !strings.Contains(l.WhyNot, "of kind veth") {
		t.Errorf("by itself, on a veth: %+v", l)
	}
	for _, mode := range []string{"native", "generic"} {
		early(mode)
		if l, s := lanStatus(t, lab); l.Early != mode || len(s.Problems) > 0 {
			t.Errorf("%s: %+v, %v", mode, l, s.Problems)
		}
		if r := mustTorbpf(t, lab, "status"); !strings.Contains(r.stdout, "floods are refused by XDP ("+mode+")") {
			t.Errorf("%s: %v", mode, r)
		}
		sendStrays(t, lab.Client1)
	}
	t.Run("gone", func(t *testing.T) {
		removeAll(t, pinDir(t, lab)+"/links/early_*")
		if _, s := lanStatus(t, lab); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "early refusal on eth1 is off, not generic") {
			t.Errorf("it is not missed: %v", s.Problems)
		}
		d := startRun(t, lab, writeConfig(t, lab, "interfaces = [\"eth1\"]\nearly_refusal = \"generic\"\n"))
		eventually(t, patience, "its repair", func() error { return sound(t, lab, lan) })
		if l, _ := lanStatus(t, lab); l.Early != "generic" {
			t.Errorf("after the repair: %+v", l)
		}
		d.stop(t)
	})
	early("off")
	if l, _ := lanStatus(t, lab); l.Early != "off" || l.WhyNot != "" {
		t.Errorf("switched off: %+v", l)
	}
	t.Run("foreign", func(t *testing.T) {
		foreignXDP(t, lab)
		early("native")
		if l, s := lanStatus(t, lab); l.Early != "off" || len(s.Problems) > 0 || !strings.Contains(strings.Join(s.Warnings, "\n"), "eth1 has no early refusal, so a flood costs more: no XDP: another XDP program is there") {
			t.Errorf("beside somebody else's: %+v, %v, %v", l, s.Problems, s.Warnings)
		}
	})
	b := badInput{name: "no mode", args: attachArgs(lab, lan, "--early-refusal", "hardware"), code: 2, says: []string{`early_refusal: "hardware" is none of auto, off, native, generic`}}
	b.refused(t, runTorbpf(t, lab, b.args...))
	sendStrays(t, lab.Client1)
	noLeaks(t, w, "whatever the mode")
	mustTorbpf(t, lab, "detach", "--all")
	before.checkSame(t, takeSnapshot(t, lab))
}

// foreignXDP puts a program of somebody else at the LAN, for as long as the test takes.
func foreignXDP(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	const pass = 2
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	var theirs link.Link
	err = lab.Router.Do(func() (err error) {
		theirs, err = link.AttachXDP(link.XDPOptions{Interface: linkOf(t, lab, lan).Attrs().Index, Program: program, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close(); program.Close() })
}
