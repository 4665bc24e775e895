// Package service has the host's service manager start `torbpf run` at boot. The
// unit itself is a file of the package or of `make install`; see packaging.
package service

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// Unit is the systemd unit that runs the daemon.
const Unit = "torbpf.service"

// ErrNoManager says that there is no service manager that this package knows.
var ErrNoManager = errors.New("this host does not run systemd")

// Find tells whether there is a service manager that has the unit.
func Find(ctx context.Context) error {
	if _, err := exec.LookPath("systemctl"); err != nil {
		return noManager()
	}
	err := systemctl(ctx, "cat", Unit)
	if errors.Is(err, ErrNoManager) {
		return err
	}
	if err != nil {
		return fmt.Errorf("find %s: %w; install it with `sudo make install`, then try again", Unit, err)
	}
	return nil
}

// noManager says what to do without systemd.
func noManager() error {
	return fmt.Errorf("%w: have its service manager start `torbpf run` before the network comes up", ErrNoManager)
}

// asleep is what systemctl says where systemd is installed and does not run.
var asleep = regexp.MustCompile(`not been booted with systemd|connect to (system scope )?bus|Host is down`)

// Enable starts the service now and at every boot.
func Enable(ctx context.Context) error { return systemctl(ctx, "enable", "--now", Unit) }

// Disable stops the service and starts it no more at boot.
func Disable(ctx context.Context) error { return systemctl(ctx, "disable", "--now", Unit) }

// systemctl runs the command; its error is what it says.
func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil && asleep.Match(out) {
		return noManager()
	}
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
