package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// OwnExplainer says what the programs of client mode in force make of a socket: they cannot be
// run for the test, since they ask who runs them. So it looks into the maps that they use, and
// at the constants they were loaded with, in their order.
type OwnExplainer struct {
	*Explainer
	constants map[string][]byte // by variable
}

// Sender is who makes a socket; zero where nobody says.
type Sender struct {
	User    *uint32
	Program plan.FileID
	Cgroups []uint64 // ids: its own first, then those above
}

// OwnRule is the rule about a sender that the programs find.
type OwnRule struct {
	Match
	Kind abi.IdentityKind
	Rule int  // its place in the plan in force; -1: torbpf's own
	Tor  bool // it is tor
}

// OwnExplainer opens the programs in force. Without them the error is an os.ErrNotExist. The
// caller closes it.
func (d *Datapath) OwnExplainer() (*OwnExplainer, error) {
	l, err := openLink(d.linkPin("client_connect6"))
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, fmt.Errorf("open the program client_connect6: %w", os.ErrNotExist)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("inspect link: %w", err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return nil, fmt.Errorf("open the program client_connect6: %w", err)
	}
	defer program.Close()
	maps, err := mapsOf(program, "client_connect6")
	if err != nil {
		return nil, err
	}
	e := &OwnExplainer{Explainer: &Explainer{maps: maps}}
	if err := e.readConstants(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// inKernel is a map's name as the kernel keeps it.
func inKernel(name string) string { return name[:min(len(name), unix.BPF_OBJ_NAME_LEN-1)] }

// Close releases the maps.
func (e *OwnExplainer) Close() { closeMaps(e.maps) }

// readConstants reads what the programs were loaded with.
func (e *OwnExplainer) readConstants() error {
	spec, err := abi.LoadClient()
	if err != nil {
		return fmt.Errorf("read BPF object: %w", err)
	}
	e.constants = make(map[string][]byte)
	for name, m := range e.maps {
		if !strings.HasSuffix(name, ".rodata") {
			continue
		}
		all, err := m.LookupBytes(uint32(0))
		if err != nil {
			return fmt.Errorf("read map %s: %w", name, err)
		}
		for _, v := range spec.Variables {
			if size := uint32(len(v.Value)); v.SectionName == ".rodata" && int(v.Offset+size) <= len(all) {
				e.constants[v.Name] = all[v.Offset : v.Offset+size]
			}
		}
	}
	return nil
}

// number is a constant of 32 bits.
func (e *OwnExplainer) number(variable string) uint32 {
	value := e.constants[variable]
	if len(value) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

// JudgesAll tells whether all of what this machine sends is judged.
func (e *OwnExplainer) JudgesAll() bool { return e.number(abi.ClientVarClientAll) != 0 }

// seesPrograms tells the programs that read the kernel's memory from those that do without.
func (e *OwnExplainer) seesPrograms() bool { return e.maps[abi.DatapathMapClientPrograms] != nil }

// Sender is class_of_task() of bpf/client.bpf.c; ok is false where no rule is about it.
func (e *OwnExplainer) Sender(who Sender) (r OwnRule, ok bool, err error) {
	for _, id := range visible(who.Cgroups) {
		if r, ok, err := e.identity(abi.DatapathIdentity{Kind: abi.IdentityCgroup, Number: id}); ok || err != nil {
			return r, ok, err
		}
	}
	if who.Program != (plan.FileID{}) && e.seesPrograms() {
		id := abi.DatapathIdentity{Kind: abi.IdentityProgram, Number: who.Program.Inode, Dev: kernelDevice(who.Program)}
		if r, ok, err := e.identity(id); ok || err != nil {
			return r, ok, err
		}
	}
	if who.User == nil {
		return OwnRule{}, false, nil
	}
	return e.identity(abi.DatapathIdentity{Kind: abi.IdentityUser, Number: uint64(*who.User)})
}

// visible are the groups that cgroup_policy() looks at: of a deeper one itself and those of the
// upper levels.
func visible(groups []uint64) []uint64 {
	const levels = 32 // MAX_CGROUP_LEVELS
	if hidden := len(groups) - levels; hidden > 0 {
		return slices.Concat(groups[:1], groups[max(1, hidden):])
	}
	return groups
}

func (e *OwnExplainer) identity(who abi.DatapathIdentity) (OwnRule, bool, error) {
	table, key := identityEntry(who)
	rule, ok, err := lookup[abi.DatapathRule](e.Explainer, table, key)
	if err != nil || !ok {
		return OwnRule{}, false, err
	}
	m, ok, err := match(rule, table, key)
	tor := who.Kind == abi.IdentityUser && who.Number != 0 && uint32(who.Number) == e.number(abi.ClientVarTorUser) ||
		who.Kind == abi.IdentityCgroup && who.Number == e.torCgroup()
	return OwnRule{Match: m, Kind: who.Kind, Rule: int(int32(rule.Id)), Tor: tor}, ok, err
}

func (e *OwnExplainer) torCgroup() uint64 {
	value := e.constants[abi.ClientVarTorCgroup]
	if len(value) != 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(value)
}

// ShortWay is take_shortcut() of bpf/shortcut.h, for a connection of a socket that is bound to
// nothing: whether it is led to TransPort as it connects. The class is that of its socket.
func (e *OwnExplainer) ShortWay(dst netip.AddrPort, mark uint32, class abi.Verdict) (bool, error) {
	if e.number(abi.ClientVarShortcut) == 0 || class == abi.VerdictDirect || mark != 0 {
		return false, nil
	}
	port, addr := dst.Port(), dst.Addr().Unmap()
	globalUnicast := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20}), 3) // RFC 4291, 2.4
	if port == 0 || port == config.PortDNS || addr.Is6() && !globalUnicast.Contains(addr) {
		return false, nil
	}
	for _, look := range []struct {
		table string
		key   any
	}{
		{localPrefixes.of(hostPrefix(addr)), prefixKey(hostPrefix(addr))},
		{detours.of(hostPrefix(addr)), prefixKey(hostPrefix(addr))},
		{abi.ClientMapDetourPorts, port},
		{abi.DatapathMapLocalAddrs, abi.DatapathAddress{Addr: addr.As16()}},
	} {
		found, err := e.has(look.table, look.key)
		if found || err != nil {
			return false, err
		}
	}
	return true, nil
}

func hostPrefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func (e *OwnExplainer) has(table string, key any) (bool, error) {
	m := e.maps[inKernel(table)]
	if m == nil {
		return false, fmt.Errorf("the programs of client mode in force use no map %s: run `torbpf attach` once more", table)
	}
	value, err := m.LookupBytes(key)
	if err != nil {
		return false, fmt.Errorf("read map %s: %w", table, err)
	}
	return value != nil, nil
}
