package doctor

import (
	"fmt"

	"github.com/torbpf/torbpf/internal/config"
)

// oldest is the kernel that the programs need.
const oldestMajor, oldestMinor = 5, 10

func kernelVersion(f *Facts) []Finding {
	var major, minor int
	if _, err := fmt.Sscanf(f.Kernel.Release, "%d.%d", &major, &minor); err != nil {
		return []Finding{note(fmt.Sprintf("the kernel calls itself %q, of which no version can be read", f.Kernel.Release))}
	}
	if major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return []Finding{problem(fmt.Sprintf("this is Linux %s, and torbpf needs %d.%d or newer", f.Kernel.Release, oldestMajor, oldestMinor))}
}

func kernelBPF(f *Facts) []Finding {
	if f.Kernel.BPF != nil {
		return []Finding{problem(f.Kernel.BPF.Error())}
	}
	var out []Finding
	for _, lacking := range f.Kernel.Lacks {
		out = append(out, note("this kernel has "+lacking))
	}
	if !f.Kernel.Forward && len(out) == 0 {
		out = append(out, note("this kernel cannot have the guard of what is forwarded (Linux 6.4): ip rules stand in for it, and every packet of the host pays for them"))
	}
	return out
}

func kernelNFT(f *Facts) []Finding {
	switch {
	case f.Kernel.NFT != nil:
		return []Finding{problem(f.Kernel.NFT.Error())}
	case f.Plan == nil:
		return noPlan()
	}
	return nil
}

func kernelBTF(f *Facts) []Finding {
	switch {
	case f.Kernel.BTF:
		return nil
	case f.Config.FastPath == config.FastPathAuto:
		return []Finding{warning("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF), without which there is no fast path: all goes the slow way", "torbpf attach --fastpath off")}
	}
	return about("this kernel has no BTF, which nothing needs but the fast path, and that is off")
}

func bpffs(f *Facts) []Finding {
	switch {
	case f.Kernel.Pins != nil:
		return []Finding{problem(fmt.Sprintf("the pins of what is attached cannot be reached: %v", f.Kernel.Pins), "sudo torbpf attach")}
	case !f.Kernel.BPFFS:
		return []Finding{problem("the kernel knows no bpffs, in which programs are pinned: torbpf needs one with CONFIG_BPF_SYSCALL")}
	}
	return nil
}
