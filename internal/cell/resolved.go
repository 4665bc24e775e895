package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
)

// systemd-resolved keeps its sockets beside two resolv.conf files, to either of which
// /etc/resolv.conf may be a link: one names resolved's own server on loopback (the stub),
// the other the servers that resolved itself asks.
const (
	resolvConf     = "/etc/resolv.conf"
	resolvedFolder = "/run/systemd/resolve"
	serversFile    = "resolv.conf"
	stubFile       = "stub-resolv.conf"
	liveFolder     = "live"
)

// namesStub finds resolved's own server in a resolv.conf.
var namesStub = regexp.MustCompile(`(?m)^[ \t]*nameserver[ \t]+127\.0\.0\.5[34]\b`)

// hideResolved hides resolved's sockets, and leaves its resolv.conf files.
//
// With policy tor they are copies: it does not matter which server a program asks, since
// all DNS of the group is redirected, the stub's included.
//
// With policy direct both are the list of servers, so that names are asked for directly, as
// a captive portal needs it; what resolved asks goes through Tor. They follow the network
// as the original does.
func hideResolved(policy config.Policy) error {
	original, err := unix.Open(resolvedFolder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // it does not run
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", resolvedFolder, err)
	}
	defer unix.Close(original)
	direct := policy == config.PolicyDirect && exists(filepath.Join(resolvedFolder, serversFile))
	fill := copyFiles
	if direct {
		fill = linkServers
	}
	if err := cover(resolvedFolder, func() error { return fill(descriptorPath(original)) }); err != nil {
		return err
	}
	if direct {
		return replaceStub()
	}
	return nil
}

// copyFiles copies what there is of the two files.
func copyFiles(from string) error {
	for _, name := range []string{serversFile, stubFile} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := writeReadable(filepath.Join(resolvedFolder, name), content); err != nil {
			return err
		}
	}
	return nil
}

// writeReadable writes a file that everybody can read, whatever the umask.
func writeReadable(path string, content []byte) error {
	const permission = 0o644
	if err := os.WriteFile(path, content, permission); err != nil {
		return err
	}
	return os.Chmod(path, permission)
}

// linkServers has both names lead to the list of servers. It mounts the folder, not the
// file: resolved puts a new file in place of the old one.
func linkServers(from string) error {
	live := filepath.Join(resolvedFolder, liveFolder)
	if err := os.Mkdir(live, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, live, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", live, err)
	}
	for _, name := range []string{serversFile, stubFile} {
		if err := os.Symlink(filepath.Join(liveFolder, serversFile), filepath.Join(resolvedFolder, name)); err != nil {
			return err
		}
	}
	return nil
}

// replaceStub is for a resolv.conf elsewhere that names the stub.
func replaceStub() error {
	target, err := filepath.EvalSymlinks(resolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", resolvConf, err)
	}
	content, err := os.ReadFile(target)
	if err != nil {
		return fmt.Errorf("read %s: %w", resolvConf, err)
	}
	if !namesStub.Match(content) {
		return nil
	}
	if err := unix.Mount(filepath.Join(resolvedFolder, serversFile), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("replace %s: %w", resolvConf, err)
	}
	return nil
}
