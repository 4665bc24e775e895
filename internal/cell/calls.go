package cell

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// families are the kinds of sockets that a program on Tor may make. What others send
// (AF_RXRPC, AF_RDS, AF_SMC, AF_TIPC), the kernel sends by sockets of its own, which are in
// no group; and their modules are loaded for whoever asks.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_ALG}

// protocols are those whose sockets the kernel makes more sockets for by itself (MPTCP, SMC
// behind a TCP socket), which carry no mark. Programs fall back to TCP.
var protocols = []uint32{unix.IPPROTO_MPTCP, 256}

// callABI is a way to call the kernel: which numbers mean what.
type callABI struct {
	arch       uint32
	ioctl      uint32
	socket     uint32
	socketcall uint32   // 0 for none
	keys       []uint32 // by which root's helpers outside are asked for names
}

// compat are those that a kernel has beside its own.
var compat = map[string]callABI{
	// 32-bit x86 programs mostly use socketcall, whose family no filter sees: they get no
	// sockets at all.
	"amd64": {arch: unix.AUDIT_ARCH_I386, ioctl: 54, socket: 359, socketcall: 102, keys: []uint32{286, 287, 288}},
	"arm64": {arch: unix.AUDIT_ARCH_ARM, ioctl: 54, socket: 281, keys: []uint32{309, 310, 311}},
}

var arches = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
	"riscv64": unix.AUDIT_ARCH_RISCV64, "loong64": unix.AUDIT_ARCH_LOONGARCH64,
	"ppc64le": unix.AUDIT_ARCH_PPC64LE, "mips64le": unix.AUDIT_ARCH_MIPSEL64, "mipsle": unix.AUDIT_ARCH_MIPSEL,
}

// restrictCalls keeps what the calling thread executes from typing on the caller's terminal,
// which a shell outside would obey; and on Tor from making sockets of other families or
// protocols, by io_uring as well, which asks no filter, and from asking the kernel to have
// names looked up outside. Without no_new_privs it takes CAP_SYS_ADMIN.
func restrictCalls(onTor bool) error {
	arch, known := arches[runtime.GOARCH]
	if !known && !onTor {
		return nil
	}
	if !known {
		return fmt.Errorf("restrict system calls: torbpf does not know how on %s", runtime.GOARCH)
	}
	abis := []callABI{{arch: arch, ioctl: unix.SYS_IOCTL, socket: unix.SYS_SOCKET, keys: []uint32{unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL}}}
	if other, has := compat[runtime.GOARCH]; has {
		abis = append(abis, other)
	}
	raw, err := bpf.Assemble(callFilter(abis, onTor))
	if err != nil {
		return fmt.Errorf("assemble filter of system calls: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	runtime.KeepAlive(filter)
	if err != nil {
		return fmt.Errorf("restrict system calls (CONFIG_SECCOMP_FILTER): %w", err)
	}
	return nil
}

// Of struct seccomp_data (seccomp(2)): offsets, those of arguments in little-endian order:
// what counts of them is their lower half.
const (
	dataCall   = 0
	dataArch   = 4
	dataFirst  = 16
	dataSecond = 24
	dataThird  = 32

	word = 4
	// x32Bit is set in the numbers of calls with 32-bit pointers on amd64.
	x32Bit = 0x40000000
	// ioUringSetup has the same number everywhere.
	ioUringSetup = unix.SYS_IO_URING_SETUP
)

var (
	allowCall  = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	noCall     = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	noFamily   = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)}
	noProtocol = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)}
	noRight    = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	endAll     = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// callFilter ends a program on Tor that calls the kernel in a way it does not know; others
// may.
func callFilter(abis []callABI, onTor bool) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArch, Size: word}}
	for _, abi := range abis {
		calls := filterCalls(abi, onTor)
		program = append(program, unless(abi.arch, len(calls)))
		program = append(program, calls...)
	}
	if onTor {
		return append(program, endAll)
	}
	return append(program, allowCall)
}

func filterCalls(abi callABI, onTor bool) []bpf.Instruction {
	calls := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataCall, Size: word},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(x32Bit)},
	}
	on := func(number uint32, then ...bpf.Instruction) {
		calls = append(calls, unless(number, len(then)))
		calls = append(calls, then...)
	}
	on(abi.ioctl,
		bpf.LoadAbsolute{Off: dataSecond, Size: word},
		unless(unix.TIOCSTI, 1), noRight,
		unless(unix.TIOCLINUX, 1), noRight,
		allowCall)
	if !onTor {
		return append(calls, allowCall)
	}
	on(ioUringSetup, noCall)
	for _, number := range abi.keys {
		on(number, noRight)
	}
	if abi.socketcall != 0 {
		on(abi.socketcall, noCall)
	}
	on(abi.socket, filterSocket()...)
	return append(calls, allowCall)
}

// filterSocket judges what socket(2) asks for.
func filterSocket() []bpf.Instruction {
	check := []bpf.Instruction{bpf.LoadAbsolute{Off: dataFirst, Size: word}}
	for i, family := range families {
		others := len(families) - 1 - i
		check = append(check, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipTrue: uint8(others + 1)})
	}
	check = append(check, noFamily, bpf.LoadAbsolute{Off: dataThird, Size: word})
	for _, protocol := range protocols {
		check = append(check, unless(protocol, 1), noProtocol)
	}
	return append(check, allowCall)
}

// unless skips instructions if what was loaded is something else.
func unless(value uint32, skip int) bpf.Instruction {
	return bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(skip)}
}
