// Package service has the host's service manager start `torbpf run` at boot: systemd,
// OpenRC (Alpine, Gentoo) or procd (OpenWrt). The unit or script itself is a file of the
// package or of `make install`; see packaging.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// What may be missing.
var (
	// ErrNoManager says that there is no service manager that this package knows.
	ErrNoManager = errors.New("this host runs neither systemd nor OpenRC nor procd")
	// ErrNoService says that the service manager has no torbpf.
	ErrNoService = errors.New("it comes with the package torbpf, and from its source with `sudo make install`")
)

// Manager is a service manager, as this package asks it.
type Manager struct {
	Name    string
	marks   []string   // files that are there where it is at work
	service string     // what it calls torbpf, for messages
	known   []string   // succeeds where it has the service
	starts  []string   // succeeds where it starts the service at every boot
	enable  [][]string // starts the service now and at every boot
	disable [][]string // stops it, and starts it no more at boot
}

// The managers leave marks of theirs; systemd is asked itself, since it may be installed and
// not run.
var (
	openRC = Manager{
		Name: "OpenRC", marks: []string{"/run/openrc/softlevel"}, service: "the service torbpf",
		known:   []string{"rc-service", "--exists", "torbpf"},
		starts:  []string{"sh", "-c", inRunlevel},
		enable:  [][]string{{"rc-update", "add", "torbpf", "boot"}, {"rc-service", "torbpf", "start"}},
		disable: [][]string{{"rc-service", "--ifstarted", "torbpf", "stop"}, {"sh", "-c", leaveRunlevels}},
	}
	procd = Manager{
		Name: "procd", marks: []string{"/etc/rc.common", "/sbin/procd"}, service: "/etc/init.d/torbpf",
		known:   []string{"test", "-x", "/etc/init.d/torbpf"},
		starts:  []string{"/etc/init.d/torbpf", "enabled"},
		enable:  [][]string{{"/etc/init.d/torbpf", "enable"}, {"/etc/init.d/torbpf", "start"}},
		disable: [][]string{{"/etc/init.d/torbpf", "stop"}, {"/etc/init.d/torbpf", "disable"}},
	}
	systemd = Manager{
		Name: "systemd", service: "torbpf.service",
		known:   []string{"systemctl", "cat", "torbpf.service"},
		starts:  []string{"sh", "-c", `[ "$(systemctl is-enabled torbpf.service)" = enabled ]`}, // and not until the next boot alone
		enable:  [][]string{{"systemctl", "enable", "--now", "torbpf.service"}},
		disable: [][]string{{"systemctl", "disable", "--now", "torbpf.service"}},
	}
)

// leaveRunlevels takes the service out of each runlevel that it is in: rc-update fails where it
// is not.
const leaveRunlevels = `for link in /etc/runlevels/*/torbpf; do
	level=${link%/torbpf}
	[ ! -L "$link" ] || rc-update delete torbpf "${level##*/}" || exit
done`

// inRunlevel looks for the service in any runlevel.
const inRunlevel = `for link in /etc/runlevels/*/torbpf; do
	[ ! -L "$link" ] || exit 0
done
exit 1`

// Find returns the service manager of this host, which has the service.
func Find(ctx context.Context) (Manager, error) { return find(ctx, "") }

// find looks for marks below a root, which is "" but in tests.
func find(ctx context.Context, root string) (Manager, error) {
	m := systemd
	for _, other := range []Manager{openRC, procd} {
		if other.isHere(root) {
			m = other
			break
		}
	}
	if _, err := exec.LookPath(m.known[0]); err != nil {
		return Manager{}, ErrNoManager
	}
	err := command(ctx, m.known)
	if errors.Is(err, ErrNoManager) {
		return Manager{}, err
	}
	if err != nil {
		return Manager{}, fmt.Errorf("find %s: %w; %w: install it, then try again", m.service, err, ErrNoService)
	}
	return m, nil
}

func (m Manager) isHere(root string) bool {
	for _, mark := range m.marks {
		if _, err := os.Stat(root + mark); err != nil {
			return false
		}
	}
	return true
}

// Enabled tells whether the service is started at every boot.
func (m Manager) Enabled(ctx context.Context) (bool, error) {
	err := command(ctx, m.starts)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return false, nil
	}
	return err == nil, err
}

// Enable starts the service now and at every boot.
func (m Manager) Enable(ctx context.Context) error { return commands(ctx, m.enable) }

// Disable stops the service and starts it no more at boot.
func (m Manager) Disable(ctx context.Context) error { return commands(ctx, m.disable) }

func commands(ctx context.Context, lines [][]string) error {
	for _, line := range lines {
		if err := command(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// asleep is what systemctl says where systemd is installed and does not run.
var asleep = regexp.MustCompile(`not been booted with systemd|connect to (system scope )?bus|Host is down`)

// command runs one; its error is what it says.
func command(ctx context.Context, line []string) error {
	out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
	if err != nil && line[0] == "systemctl" && asleep.Match(out) {
		return ErrNoManager
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(line, " "), err)
	}
	if says := strings.TrimSpace(string(out)); err != nil && says != "" {
		err = fmt.Errorf("%w: %s", err, says)
	}
	return err
}
