package leaktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Daemon has `torbpf run` repair.
type Daemon struct {
	// Always: it is there during the fault as well, so that the fault may be
	// repaired before all of it has come about. Otherwise it begins with the repair:
	// then the fault is held by what is in the kernel alone.
	Always bool

	cmd *exec.Cmd
	log *bytes.Buffer
}

// Begin starts the daemon, if it is to be there.
func (d *Daemon) Begin(b *Bench) error {
	if !d.Always {
		return nil
	}
	return d.start(b)
}

// Repair sees to it that the daemon is there, as a service manager would.
func (d *Daemon) Repair(b *Bench) error {
	if d.running() {
		return nil
	}
	if err := d.End(b); err != nil {
		return err
	}
	return d.start(b)
}

// start starts the daemon on what is attached: there is no such file.
func (d *Daemon) start(b *Bench) error {
	d.log = &bytes.Buffer{}
	d.cmd = b.Lab.Router.Command(context.WithoutCancel(b.ctx), b.Program, "run", "--config", b.Lab.Dir()+"/none.toml")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start torbpf run: %w", err)
	}
	return nil
}

// running tells whether the daemon is there; a fault may have killed it.
func (d *Daemon) running() bool {
	if d.cmd == nil {
		return false
	}
	fd, err := unix.PidfdOpen(d.cmd.Process.Pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 0
}

// End tells the daemon to stop, which it must obey.
func (d *Daemon) End(*Bench) error {
	if d.cmd == nil {
		return nil
	}
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop torbpf run: %w", err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
		return nil // a fault killed it
	}
	if err != nil {
		return fmt.Errorf("torbpf run: %w: %s", err, d.log)
	}
	return nil
}
