package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet/vm"
)

// modules is the index of the machine's modules, see vm.ModulesPath.
type modules struct {
	builtin map[string]bool
	path    map[string]string
	needs   map[string][]string
	aliases [][2]string // pattern and module
}

// modprobe loads modules by name or alias, with what they need: modprobe [-q] NAME
// [PARAMETER…]; or removes one: modprobe -r NAME.
func modprobe(args []string) error {
	remove := slices.Contains(args, "-r")
	args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if len(args) == 0 {
		return errors.New("name a module")
	}
	name, parameters := vm.ModuleName(args[0]), strings.Join(args[1:], " ")
	if remove {
		return unix.DeleteModule(name, unix.O_NONBLOCK)
	}
	m, err := readModules()
	if err != nil {
		return err
	}
	found := m.find(name)
	if found == nil && !m.builtin[name] {
		return fmt.Errorf("there is no module %s here", name)
	}
	for _, name := range found {
		if err := m.load(name, parameters); err != nil {
			return err
		}
	}
	return nil
}

func readModules() (*modules, error) {
	text, err := os.ReadFile(vm.ModulesPath)
	if err != nil {
		return nil, err
	}
	m := &modules{builtin: map[string]bool{}, path: map[string]string{}, needs: map[string][]string{}}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		switch f[0] {
		case "builtin":
			m.builtin[f[1]] = true
		case "module":
			m.path[f[1]] = f[2]
			if f[3] != "" {
				m.needs[f[1]] = strings.Split(f[3], ",")
			}
		case "alias":
			m.aliases = append(m.aliases, [2]string{f[1], f[2]})
		}
	}
	return m, nil
}

// find returns the modules that a name stands for.
func (m *modules) find(name string) (found []string) {
	if m.path[name] != "" {
		return []string{name}
	}
	for _, a := range m.aliases {
		if matches, err := path.Match(a[0], name); err == nil && matches {
			found = append(found, a[1])
		}
	}
	return found
}

// load loads a module after those that it needs.
func (m *modules) load(name, parameters string) error {
	if m.builtin[name] || m.path[name] == "" { // what is wanted beforehand and not there is no need
		return nil
	}
	for _, need := range m.needs[name] {
		if err := m.load(need, ""); err != nil {
			return err
		}
	}
	f, err := os.Open(m.path[name])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", name, err)
	}
	return nil
}
