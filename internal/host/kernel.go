package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Release is that of the kernel: "6.18.1-amd64".
func Release() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask for the kernel's version: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// HasBTF tells whether the kernel describes its own types.
func HasBTF() bool {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err == nil
}

// HasBPFFS tells whether the kernel knows the file system that programs are pinned in.
func HasBPFFS() (bool, error) {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return false, fmt.Errorf("list file systems: %w", err)
	}
	return slices.Contains(strings.Fields(string(text)), "bpf"), nil
}

// HasLegacyFilter tells whether iptables-legacy has a table of rules that filter, of either
// family. nftables does not list those.
func HasLegacyFilter() (bool, error) {
	for _, table := range []string{"ip_tables_names", "ip6_tables_names"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + table)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("list tables of iptables: %w", err)
		}
		if slices.Contains(strings.Fields(string(text)), "filter") {
			return true, nil
		}
	}
	return false, nil
}
