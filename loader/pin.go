package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// newPrefix begins the name of a pin that is about to replace another.
const newPrefix = "new-"

func newPin(path string) string {
	return filepath.Join(filepath.Dir(path), newPrefix+filepath.Base(path))
}

// replacePin pins under another name and renames, so that a reader finds the
// old object or the new one.
func replacePin(path string, pin func(string) error) error {
	temporary := newPin(path)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale pin: %w", err)
	}
	if err := pin(temporary); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// pin makes the pins show this generation, and nothing that has no part in it.
// They only serve inspection and the next command; what runs is held by the
// links and filters.
func (g *Generation) pin() error {
	return errors.Join(
		pinOnly(g.datapath.mapPin(""), g.collection.Maps),
		pinOnly(g.datapath.programPin(""), g.collection.Programs))
}

// object is a map or a program.
type object[T any] interface {
	Clone() (T, error)
	Pin(string) error
	Close() error
}

func pinOnly[T object[T]](dir string, objects map[string]T) error {
	for name, o := range objects {
		if constants(name) {
			continue
		}
		if err := pinObject(filepath.Join(dir, name), o); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, entry := range entries {
		if _, ours := objects[entry.Name()]; ours {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove stale pin: %w", err)
		}
	}
	return nil
}

// pinObject pins a clone: a handle that is pinned already would be moved.
func pinObject[T object[T]](path string, o T) error {
	clone, err := o.Clone()
	if err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	defer clone.Close()
	if err := replacePin(path, clone.Pin); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	return nil
}

// constants tells whether a map is a section of constants, whose name holds a
// dot; bpffs takes none.
func constants(name string) bool { return strings.HasPrefix(name, ".") }
