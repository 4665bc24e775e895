package e2e

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/testnet"
)

// attachForeign puts a program of somebody else ahead of ours that says OK to every
// packet, so that none gets to ours. It stays until the test ends.
func attachForeign(t testing.TB, lab *testnet.Lab, name string) {
	t.Helper()
	const ok = 0 // TC_ACT_OK
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, ok), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	var l link.Link
	err = lab.Router.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: linkOf(t, lab, name).Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), program.Close()); err != nil {
			t.Error(err)
		}
	})
}
