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

// callABI is a way to call the kernel: which numbers mean what.
type callABI struct {
	arch       uint32
	socket     uint32
	socketcall uint32 // 0 for none
}

// compat are those that a kernel has beside its own.
var compat = map[string]callABI{
	// 32-bit x86 programs mostly use socketcall, whose family no filter sees: they get no
	// sockets at all.
	"amd64": {arch: unix.AUDIT_ARCH_I386, socket: 359, socketcall: 102},
	"arm64": {arch: unix.AUDIT_ARCH_ARM, socket: 281},
}

var arches = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
	"riscv64": unix.AUDIT_ARCH_RISCV64, "loong64": unix.AUDIT_ARCH_LOONGARCH64,
	"ppc64le": unix.AUDIT_ARCH_PPC64LE, "mips64le": unix.AUDIT_ARCH_MIPSEL64, "mipsle": unix.AUDIT_ARCH_MIPSEL,
}

// restrictSockets keeps what the calling thread executes from making sockets of other
// families, by io_uring as well, which asks no filter. It needs no_new_privs.
func restrictSockets() error {
	arch, known := arches[runtime.GOARCH]
	if !known {
		return fmt.Errorf("restrict kinds of sockets: torbpf does not know how on %s", runtime.GOARCH)
	}
	abis := []callABI{{arch: arch, socket: unix.SYS_SOCKET}}
	if other, has := compat[runtime.GOARCH]; has {
		abis = append(abis, other)
	}
	raw, err := bpf.Assemble(socketFilter(abis))
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
		return fmt.Errorf("restrict kinds of sockets (CONFIG_SECCOMP_FILTER): %w", err)
	}
	return nil
}

// Of struct seccomp_data (seccomp(2)): offsets, the first argument's in little-endian order.
const (
	dataCall     = 0
	dataArch     = 4
	dataArgument = 16

	word = 4
	// x32Bit is set in the numbers of calls with 32-bit pointers on amd64.
	x32Bit = 0x40000000
	// ioUringSetup has the same number everywhere.
	ioUringSetup = unix.SYS_IO_URING_SETUP
)

var (
	allowCall = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	noCall    = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	noFamily  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)}
	endAll    = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// socketFilter ends a program that calls the kernel in a way it does not know.
func socketFilter(abis []callABI) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArch, Size: word}}
	for _, abi := range abis {
		calls := filterCalls(abi)
		program = append(program, unless(abi.arch, len(calls)))
		program = append(program, calls...)
	}
	return append(program, endAll)
}

func filterCalls(abi callABI) []bpf.Instruction {
	calls := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataCall, Size: word},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(x32Bit)},
		unless(ioUringSetup, 1), noCall,
	}
	if abi.socketcall != 0 {
		calls = append(calls, unless(abi.socketcall, 1), noCall)
	}
	check := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArgument, Size: word}}
	for _, family := range families {
		check = append(check, unless(family, 1), allowCall)
	}
	check = append(check, noFamily)
	calls = append(calls, unless(abi.socket, len(check)))
	return append(append(calls, check...), allowCall)
}

// unless skips instructions if what was loaded is something else.
func unless(value uint32, skip int) bpf.Instruction {
	return bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(skip)}
}
