package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Inject hands an Ethernet frame to the network stack as if the interface had
// just received it; it is judged like any other. On an interface without an
// Ethernet header the stack strips it.
func Inject(ifindex int, frame []byte) error {
	const ingress = 1 // BPF_F_INGRESS
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "torbpf_inject",
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
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
