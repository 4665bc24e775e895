package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Inject hands an Ethernet frame to the network stack as if the interface had
// just received it, with a mark; it is judged like any other. On an interface without an
// Ethernet header the stack strips it.
func Inject(ifindex int, frame []byte, mark uint32) error {
	const (
		ingress    = 1 // BPF_F_INGRESS
		markOffset = 8 // of struct __sk_buff
	)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "torbpf_inject",
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, int32(mark)),
			asm.StoreMem(asm.R1, markOffset, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R2, int32(ifindex)),
			asm.Mov.Imm(asm.R3, ingress),
			asm.FnCloneRedirect.Call(),
			asm.Return(),
		},
		License: "Dual MIT/GPL",
	})
	if err != nil {
		return fmt.Errorf("load program that injects a frame: %w", explainLoad(err))
	}
	defer program.Close()
	code, err := program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		return fmt.Errorf("inject a frame: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("inject a frame into interface %d: the kernel refused it (%d)", ifindex, int32(code))
	}
	return nil
}
