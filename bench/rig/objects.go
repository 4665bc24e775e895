package rig

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/bench/report"
)

// Programs are those that torbpf has pinned in a router, by name.
func (p *Path) Programs() ([]report.Program, error) {
	return eachPin(p, "programs", func(name, pin string) (report.Program, error) {
		program, err := ebpf.LoadPinnedProgram(pin, nil)
		if err != nil {
			return report.Program{}, err
		}
		defer program.Close()
		info, err := program.Info()
		if err != nil {
			return report.Program{}, err
		}
		verified, _ := info.VerifiedInstructions() // from Linux 5.16
		jited, err := info.JitedSize()
		return report.Program{Name: name, Instructions: verified, JITed: jited}, err
	})
}

// Maps are those that torbpf has pinned in a router, the greatest first.
func (p *Path) Maps() ([]report.Map, error) {
	maps, err := eachPin(p, "maps", func(name, pin string) (report.Map, error) {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			return report.Map{}, err
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			return report.Map{}, err
		}
		bytes, _ := info.Memlock() // an empty trie has none
		return report.Map{Name: name, Bytes: bytes}, nil
	})
	slices.SortStableFunc(maps, func(a, b report.Map) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return maps, err
}

func eachPin[T any](p *Path, kind string, read func(name, pin string) (T, error)) ([]T, error) {
	dir, err := p.pins(kind)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	var out []T
	for _, e := range entries {
		one, err := read(e.Name(), filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
		out = append(out, one)
	}
	return out, nil
}
