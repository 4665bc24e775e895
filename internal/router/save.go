package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/torbpf/torbpf/internal/config"
)

// SaveConfig writes the configuration in force to a file for `torbpf run`. A file
// that is there stays, if it can be read, unless overwrite is set; wrote says which.
func (r *Router) SaveConfig(path string, overwrite bool) (wrote bool, err error) {
	if err := requireRoot(); err != nil {
		return false, err
	}
	if _, err := config.Load(path); !errors.Is(err, os.ErrNotExist) && !overwrite {
		return false, err
	}
	s, err := r.attached()
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	c := s.Config
	c.Rules = withoutDropIns(c.Rules, path)
	text, err := c.Text()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("make configuration directory: %w", err)
	}
	if err := config.ReplaceFile(path, text); err != nil {
		return false, fmt.Errorf("write configuration: %w", err)
	}
	return true, nil
}
