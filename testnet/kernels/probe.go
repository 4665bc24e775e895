package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	ebpffeatures "github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// Probe writes down what this kernel has of what torbpf uses where it is there. It changes
// the machine it runs on, so it is for a virtual one.
func Probe(path string) error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	// The functions by which programs ask conntrack are the module's, which elsewhere the rules of nftables load.
	if out, err := exec.Command("modprobe", "nf_conntrack").CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe nf_conntrack: %w: %s", err, out)
	}
	found := make(map[string]Found)
	for key, look := range probes {
		err := look()
		found[key] = Found{Has: err == nil}
		if err != nil {
			found[key] = Found{Why: strings.SplitN(err.Error(), "\n", 2)[0], Unknown: errors.Is(err, exec.ErrNotFound)}
		}
	}
	text, err := json.Marshal(found)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// probes return why the kernel lacks something.
var probes = map[string]func() error{
	"btf":       hasBTF,
	"tcx":       hasTCX,
	"cookie":    hasCookie,
	"frames":    hasXDPFeatures,
	"mptcp":     hasMPTCP,
	"owner":     func() error { return nftTakes("table inet probe_owner { flags owner; }") },
	"flowtable": hasFlowtable,
	"sockops":   func() error { return ebpffeatures.HaveProgramHelper(ebpf.SockOps, asm.FnGetNetnsCookie) },
	"wireguard": func() error { return linkTakes(&netlink.Wireguard{LinkAttrs: named("probe_wg")}) },
	"bond":      func() error { return linkTakes(netlink.NewLinkBond(named("probe_bond"))) },
	"dummy":     func() error { return linkTakes(&netlink.Dummy{LinkAttrs: named("probe_dummy")}) },
	"vlan":      hasVLAN,
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// linkTakes adds an interface, which loads the module that makes it.
func linkTakes(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("add an interface of kind %s: %w", l.Type(), err)
	}
	return netlink.LinkDel(l)
}

func hasVLAN() error {
	parent := &netlink.Dummy{LinkAttrs: named("probe_parent")}
	if err := netlink.LinkAdd(parent); err != nil {
		return err
	}
	attrs := named("probe_vlan")
	attrs.ParentIndex = parent.Index
	return errors.Join(linkTakes(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7}), netlink.LinkDel(parent))
}

func hasBTF() error {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

func hasCookie() error {
	cookie, err := kernel.NamespaceCookie()
	if err == nil && cookie == 0 {
		err = errors.New("network namespaces have no cookies")
	}
	return err
}

func hasMPTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return fmt.Errorf("open a socket of MPTCP: %w", err)
	}
	return unix.Close(fd)
}

func hasXDPFeatures() error {
	if _, err := netlink.GenlFamilyGet("netdev"); err != nil {
		return fmt.Errorf("ask for family netdev of netlink: %w", err)
	}
	return nil
}

// passing loads a program that lets everything pass.
func passing(kind ebpf.ProgramType) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
}

func hasTCX() error {
	program, err := passing(ebpf.SchedCLS)
	if err != nil {
		return err
	}
	defer program.Close()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: lo.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return err
	}
	return l.Close()
}

// nftTakes loads rules, and takes them away again.
func nftTakes(rules string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		return fmt.Errorf("nft flush ruleset: %w: %s", err, out)
	}
	return nil
}

func hasFlowtable() error {
	return nftTakes(`table inet probe_flows {
	flowtable f { hook ingress priority 0; devices = { lo }; }
	chain forward { type filter hook forward priority 0; ip protocol tcp flow add @f; }
}`)
}
