package cell

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// kept are the capabilities that root's programs keep with policy tor: they are about files
// and processes. Every other could lead around Tor, by raw frames, DHCP, marks, rules, other
// processes' memory, devices or mounts; so could those that kernels to come will know.
var kept = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP,
	unix.CAP_SYS_CHROOT, unix.CAP_SYS_NICE, unix.CAP_LEASE, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
}

// confineThread takes from the calling thread, and from what it executes, every capability
// but those kept, every way to get one back, and the system calls that lead around Tor.
func confineThread() error {
	var mask uint64
	for _, capability := range kept {
		mask |= 1 << capability
	}
	if err := kernel.BoundCapabilities(mask); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range data {
		half := uint32(mask >> (32 * i))
		data[i].Permitted &= half
		data[i].Effective &= half
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return restrictCalls(true)
}
