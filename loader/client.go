package loader

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// clientProgram is a program of bpf/client.bpf.c, which is attached to the root of the
// control groups, or to tor's.
type clientProgram struct {
	pin      string // of its link, and its name among what Missing returns
	attach   ebpf.AttachType
	full     string
	bare     string // for kernels whose memory cannot be read; "": none
	shortcut bool   // only for the short way to Tor
	ofTor    bool   // attached to tor's group
}

// clientPrograms in the order in which they are attached: who asks on the short way comes
// before who leads there.
var clientPrograms = []clientProgram{
	{pin: "tor_target", attach: ebpf.AttachCGroupGetsockopt, full: abi.ClientProgTorbpfGetsockopt, shortcut: true, ofTor: true},
	{pin: "client_peer4", attach: ebpf.AttachCgroupInet4GetPeername, full: abi.ClientProgTorbpfPeer4, shortcut: true},
	{pin: "client_peer6", attach: ebpf.AttachCgroupInet6GetPeername, full: abi.ClientProgTorbpfPeer6, shortcut: true},
	{pin: "client_sock", attach: ebpf.AttachCGroupInetSockCreate, full: abi.ClientProgTorbpfSock, bare: abi.ClientProgTorbpfSockB},
	{pin: "client_connect4", attach: ebpf.AttachCGroupInet4Connect, full: abi.ClientProgTorbpfConnect4, bare: abi.ClientProgTorbpfConnect4B},
	{pin: "client_connect6", attach: ebpf.AttachCGroupInet6Connect, full: abi.ClientProgTorbpfConnect6, bare: abi.ClientProgTorbpfConnect6B},
	{pin: "client_sockops", attach: ebpf.AttachCGroupSockOps, full: abi.ClientProgTorbpfSockops, bare: abi.ClientProgTorbpfSockopsB},
}

// group is the control group that a program is attached to.
func (c clientProgram) group(root string, p *plan.Plan) string {
	if c.ofTor {
		return filepath.Join(root, p.Client.Shortcut.TorGroup)
	}
	return root
}

// clientMode is what a plan has the programs judge of what this machine itself sends.
func clientMode(p *plan.Plan) abi.ClientMode {
	switch {
	case p.Client == nil:
		return abi.ClientNone
	case p.Client.All:
		return abi.ClientAll
	default:
		return abi.ClientExec
	}
}

// attachClient attaches what gives the sockets of this machine their class, or exchanges
// the programs under the links that are there. Without client mode they stay until
// AttachLANs: the guards must have let go first.
func (g *Generation) attachClient() error {
	if g.plan.Client == nil {
		return nil
	}
	cookie, err := kernel.NamespaceCookie()
	if err != nil {
		return err
	}
	if cookie == 0 {
		return kernel.Lacks(errors.New("client mode: this kernel does not tell sockets of one network namespace from those of another"), "Linux 5.14 or newer")
	}
	spec, err := g.clientSpec(cookie)
	if err != nil {
		return err
	}
	if err := g.withoutSockops(spec); err != nil {
		return err
	}
	collection, err := g.loadFullOrBare(spec)
	if err != nil {
		return fmt.Errorf("load BPF programs of client mode: %w", explainLoad(err))
	}
	defer collection.Close()
	if err := fillDetours(collection.Maps, g.plan); err != nil {
		return err
	}
	return g.attachClientPrograms(collection)
}

// clientSpec is the object, told of the plan.
func (g *Generation) clientSpec(cookie uint64) (*ebpf.CollectionSpec, error) {
	spec, err := abi.LoadClient()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	if err := setVariables(spec, g.plan); err != nil {
		return nil, err
	}
	err = errors.Join(
		spec.Variables[abi.ClientVarNetnsCookie].Set(cookie),
		spec.Variables[abi.ClientVarClientAll].Set(setting(g.plan.Client.All)),
		spec.Variables[abi.ClientVarTorUser].Set(torOf(g.plan, config.KindUser).User),
		spec.Variables[abi.ClientVarTorCgroup].Set(torOf(g.plan, config.KindCgroup).Cgroup),
		spec.Variables[abi.ClientVarCgroupRules].Set(identitiesOf(g.plan, config.KindCgroup)),
		spec.Variables[abi.ClientVarProgramRules].Set(identitiesOf(g.plan, config.KindProgram)))
	if err != nil {
		return nil, fmt.Errorf("set variables: %w", err)
	}
	return spec, prepareShortcut(spec, g.plan)
}

// torOf is how tor is told from others, of one kind; nobody where it is not.
func torOf(p *plan.Plan, kind config.Kind) plan.Identity {
	for _, i := range p.Client.Identities {
		if i.Tor && i.Kind == kind {
			return i
		}
	}
	return plan.Identity{}
}

// identitiesOf counts the rules about senders of one kind.
func identitiesOf(p *plan.Plan, kind config.Kind) (n uint32) {
	for _, i := range p.Client.Identities {
		if i.Kind == kind {
			n++
		}
	}
	return n
}

// attachClientPrograms attaches those that were loaded to the root of the control groups.
func (g *Generation) attachClientPrograms(collection *ebpf.Collection) error {
	root, err := cgroup.Tree()
	if err != nil {
		return err
	}
	all, err := cgroup.Whole(root)
	if err != nil {
		return err
	}
	if !all {
		g.unsupported = append(g.unsupported, "no view beyond a control group namespace: what sends in this network namespace, but runs outside of the container, is never exempt by user, program or control group")
	}
	for _, c := range clientPrograms {
		program := cmp.Or(collection.Programs[c.full], collection.Programs[c.bare])
		if program == nil {
			continue // see withoutSockops and prepareShortcut
		}
		if err := attachCgroup(g.datapath.linkPin(c.pin), c.group(root, g.plan), c.attach, program); err != nil {
			return fmt.Errorf("attach %s to control groups: %w", program, err)
		}
	}
	return g.removeShortcut(collection)
}

// withoutSockops leaves out the program for accepted connections where the kernel does
// not tell it the network namespace (before Linux 5.15, commit 6cf1770d63dd).
func (g *Generation) withoutSockops(spec *ebpf.CollectionSpec) error {
	err := features.HaveProgramHelper(ebpf.SockOps, asm.FnGetNetnsCookie)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("ask the kernel for a BPF helper: %w", err)
	}
	delete(spec.Programs, abi.ClientProgTorbpfSockops)
	delete(spec.Programs, abi.ClientProgTorbpfSockopsB)
	g.unsupported = append(g.unsupported, "no marks on accepted connections (client_sockops): it takes Linux 5.15; they last as long as torbpf's nftables table", noShortcut)
	return withoutShortcut(spec)
}

// loadFullOrBare tries the programs that read which executable a task runs, then those
// that do without. If those are refused as well, reading was not the cause.
func (g *Generation) loadFullOrBare(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	full, bare := spec.Copy(), spec.Copy()
	for _, c := range clientPrograms {
		delete(full.Programs, c.bare)
		delete(bare.Programs, c.full)
	}
	others := slices.Concat(identityMaps, targetMaps)
	collection, err := ebpf.NewCollectionWithOptions(full, g.share(full, others...))
	var refused *ebpf.VerifierError
	if !errors.As(err, &refused) && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, btf.ErrNotFound) {
		return collection, err
	}
	collection, err = ebpf.NewCollectionWithOptions(bare, g.share(bare, others...))
	if err == nil {
		g.unsupported = append(g.unsupported, "no exemptions of programs of this machine's own, and none for sockets older than client mode: it takes BTF, and a kernel that is not locked down", noShortcut)
	}
	return collection, err
}

// attachCgroup attaches a program to a control group, or exchanges it under the link that is
// there.
func attachCgroup(pin, group string, attach ebpf.AttachType, program *ebpf.Program) error {
	old, err := openLink(pin)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		here, err := attachedToCgroup(old, group)
		if err != nil {
			return err
		}
		if here {
			return old.Update(program)
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: group, Attach: attach, Program: program})
	if err != nil {
		return err
	}
	defer l.Close()
	return exchangeLink(pin, l, old)
}

// attachedToCgroup tells whether a link is to a control group, and has not been detached.
func attachedToCgroup(l link.Link, group string) (bool, error) {
	id, err := cgroup.ID(group, "/")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link: %w", err)
	}
	return info.Cgroup() != nil && info.Cgroup().CgroupId == id, nil
}

// missingClient names the programs of client mode that are not attached.
func (d *Datapath) missingClient(p *plan.Plan) ([]string, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, c := range clientPrograms {
		if c.shortcut && p.Client.Shortcut == nil {
			continue
		}
		l, err := openLink(d.linkPin(c.pin))
		if err != nil {
			return nil, err
		}
		if l == nil {
			missing = append(missing, c.pin)
			continue
		}
		here, err := attachedToCgroup(l, c.group(root, p))
		l.Close()
		if err != nil {
			return nil, err
		}
		if !here {
			missing = append(missing, c.pin)
		}
	}
	return missing, nil
}

// detachClient detaches the programs of client mode, if they are there.
func (d *Datapath) detachClient() error {
	var errs []error
	for _, c := range slices.Backward(clientPrograms) {
		errs = append(errs, removeLink(d.linkPin(c.pin)))
	}
	return errors.Join(errs...)
}
