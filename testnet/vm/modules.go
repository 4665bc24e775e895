package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the folders below a kernel's modules of which a guest has all: networking
// and what that takes.
var wanted = []string{
	"net", "crypto", "lib", "arch", "drivers/net", "drivers/virtio", "drivers/block/loop", "drivers/char/virtio_console",
	"drivers/char/hw_random", "fs/overlayfs", "fs/fuse", "block",
}

// unwanted are what drives real hardware, and protocols that no test speaks.
var unwanted = []string{
	"drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "drivers/net/can", "drivers/net/phy", "drivers/net/dsa",
	"drivers/net/hamradio", "drivers/net/wwan", "drivers/net/ieee802154", "drivers/net/hyperv", "drivers/net/mdio", "drivers/net/pcs",
	"net/bluetooth", "net/mac80211", "net/wireless", "net/ceph", "net/sunrpc", "net/rds", "net/tipc", "net/nfc", "net/can", "net/rxrpc",
	"net/smc", "net/batman-adv", "net/openvswitch", "net/qrtr", "net/atm", "net/9p", "net/rose", "net/netrom", "net/ax25", "arch/x86/kvm",
}

// module is a loadable one of a kernel, as its .modinfo describes it.
type module struct {
	name    string
	path    string // in the guest
	needs   []string
	aliases []string
	image   []byte
}

// index is what the guest's modprobe reads, a line each:
//
//	builtin NAME
//	module NAME PATH NEEDS,…
//	alias PATTERN NAME
func index(modules []module, builtin []string) []byte {
	var b bytes.Buffer
	for _, name := range builtin {
		fmt.Fprintf(&b, "builtin %s\n", name)
	}
	for _, m := range modules {
		fmt.Fprintf(&b, "module %s %s %s\n", m.name, m.path, strings.Join(m.needs, ","))
		for _, a := range m.aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.name)
		}
	}
	return b.Bytes()
}

// ModuleName is how the kernel spells a module's name, and an alias.
func ModuleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// readModules reads the modules that a guest wants below lib/modules/VERSION.
func readModules(dir string) ([]module, error) {
	var all []module
	root := filepath.Join(dir, "kernel")
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		base, _, isModule := strings.Cut(path.Base(rel), ".ko")
		if d.IsDir() || !isModule || !inside(rel, wanted) || inside(rel, unwanted) {
			return nil
		}
		m, err := readModule(p)
		if err != nil {
			return fmt.Errorf("read module %s: %w", p, err)
		}
		m.name = ModuleName(base)
		m.path = path.Join("/lib/modules", filepath.Base(dir), "kernel", path.Dir(rel), base+".ko")
		all = append(all, m)
		return nil
	})
	return all, err
}

func inside(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		return strings.HasPrefix(name, f) && (len(name) == len(f) || strings.ContainsRune("/._-", rune(name[len(f)])))
	})
}

// readModule reads a module, and unpacks it, since not every kernel does that itself.
func readModule(file string) (m module, err error) {
	unpack := map[string]string{".ko": "", ".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
	tool, known := unpack[filepath.Ext(file)]
	switch {
	case !known:
		return m, errors.New("it is packed in an unknown way")
	case tool == "":
		m.image, err = os.ReadFile(file)
	default:
		if m.image, err = exec.Command(tool, "-dc", file).Output(); err != nil {
			err = fmt.Errorf("%s: %w: install %s", tool, err, tool)
		}
	}
	if err != nil {
		return m, err
	}
	object, err := elf.NewFile(bytes.NewReader(m.image))
	if err != nil {
		return m, err
	}
	section := object.Section(".modinfo")
	if section == nil {
		return m, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return m, err
	}
	m.describe(info)
	return m, nil
}

// describe takes over what .modinfo says, which is strings such as "depends=nf_tables,libcrc32c".
func (m *module) describe(info []byte) {
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					m.needs = append(m.needs, ModuleName(name))
				}
			}
		case "softdep":
			before, isPre := strings.CutPrefix(value, "pre:")
			before, _, _ = strings.Cut(before, "post:")
			if isPre {
				for _, name := range strings.Fields(before) {
					m.needs = append(m.needs, ModuleName(name))
				}
			}
		case "alias":
			if !strings.ContainsAny(value, " ") && !hardware(value) {
				m.aliases = append(m.aliases, ModuleName(value))
			}
		}
	}
}

// hardware tells an alias by which a device finds its driver: guests have none but virtio's.
func hardware(alias string) bool {
	return slices.ContainsFunc([]string{"pci:", "usb:", "of:", "acpi", "dmi", "platform:", "cpu:", "hid:"}, func(p string) bool {
		return strings.HasPrefix(alias, p)
	})
}

// readBuiltin lists the modules that are part of the kernel itself.
func readBuiltin(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("list the kernel's own modules: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		base, _, _ := strings.Cut(path.Base(strings.TrimSpace(line)), ".ko")
		names = append(names, ModuleName(base))
	}
	return names, nil
}
