package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// procSys shows, below net, the namespace of the thread that opens a file.
const procSys = "/proc/sys"

// Sysctl returns a kernel setting without its line end. A name is written as
// sysctl(8) does, "net.ipv4.ip_forward" or, for interfaces with dots in their
// names, "net/ipv4/conf/eth0.5/forwarding". A setting that this kernel lacks
// gives os.ErrNotExist.
func Sysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// SetSysctl writes a kernel setting.
func SetSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	// Without O_CREATE a setting that is missing is reported as such.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s to %q: %w", name, value, err)
	}
	return nil
}

// sysctlPath refuses names that leave /proc/sys: Restore takes them from a file.
func sysctlPath(name string) (string, error) {
	relative := name
	if !strings.Contains(name, "/") {
		relative = strings.ReplaceAll(name, ".", "/")
	}
	if !filepath.IsLocal(relative) {
		return "", fmt.Errorf("find sysctl %q: not a name of a kernel setting", name)
	}
	return filepath.Join(procSys, relative), nil
}
