package tor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"time"

	"github.com/cretz/bine/process"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/users"
)

// startTimeout bounds the time until tor answers on its control socket, which
// is after it has opened its ports and read its caches.
const startTimeout = 60 * time.Second

// Start starts tor and returns once it answers on its control socket; then all
// its ports are open. It is not bootstrapped yet: see WaitBootstrap.
// On an error nothing of it is left running.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	acct, err := LookupAccount()
	if err != nil {
		return nil, err
	}
	binary, err := findBinary(o.Binary)
	if err != nil {
		return nil, err
	}
	if d, err := Find(o.Dir); err == nil {
		return nil, fmt.Errorf("start tor: it runs already, as process %d", d.PID())
	} else if !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	d, err := o.start(ctx, binary, acct)
	if err != nil {
		return nil, errors.Join(err, o.removeFiles())
	}
	return d, nil
}

func (o Options) start(ctx context.Context, binary string, acct users.Account) (*Daemon, error) {
	if err := o.makeDirs(acct); err != nil {
		return nil, err
	}
	if _, err := o.prepare(ctx, binary, acct); err != nil {
		return nil, err
	}
	if err := o.adopt(); err != nil {
		return nil, err
	}
	raiseFileLimit()
	c, err := o.launch(binary, acct)
	if err != nil {
		return nil, err
	}
	d := &Daemon{dir: o.Dir, rec: record{PID: c.cmd.Process.Pid, Start: c.start, Binary: binary, User: acct.Name, DataDir: o.DataDir}}
	if o.Cgroup != nil {
		if d.rec.Cgroup, err = inode(o.Cgroup); err != nil {
			return nil, errors.Join(fmt.Errorf("note which control group tor is in: %w", err), c.kill())
		}
	}
	if err := d.rec.write(o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("note which process tor is: %w", err), c.kill())
	}
	if err := d.waitReady(ctx, c); err != nil {
		return nil, errors.Join(fmt.Errorf("start tor: %w", o.explainBind(err)), c.kill())
	}
	return d, nil
}

// inode is a file's number; a control group's is what the kernel calls it by.
func inode(f *os.File) (uint64, error) {
	var stat unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &stat)
	return stat.Ino, err
}

// child is a tor that this process started and, while it lives, must reap.
type child struct {
	cmd   *exec.Cmd
	start uint64        // see record.Start
	gone  chan struct{} // closed when it has ended
}

// launch starts the process. It is in a session of its own, without terminal,
// and reads /dev/null, so nothing that happens to the command reaches it; what
// it writes before it opens its log goes to startup.log.
func (o Options) launch(binary string, acct users.Account) (*child, error) {
	out, err := os.OpenFile(o.startupPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start tor: %w", err)
	}
	defer out.Close()
	c := &child{gone: make(chan struct{})}
	creator := process.CmdCreatorFunc(func(_ context.Context, args ...string) (*exec.Cmd, error) {
		// Not CommandContext: the end of a command's context must not end tor.
		c.cmd = command(binary, acct, o.DataDir, args...)
		c.cmd.Stdout, c.cmd.Stderr = out, out
		if o.Cgroup != nil {
			c.cmd.SysProcAttr.UseCgroupFD, c.cmd.SysProcAttr.CgroupFD = true, int(o.Cgroup.Fd())
		}
		return c.cmd, nil
	})
	proc, err := creator.New(context.Background(), torArgs(o.torrcPath())...)
	if err != nil {
		return nil, fmt.Errorf("start tor: %w", err)
	}
	if err := proc.Start(); err != nil {
		return nil, fmt.Errorf("start tor: %w", err)
	}
	c.start, err = startTicks(c.cmd.Process.Pid) // before it can be reaped
	go func() {
		_ = proc.Wait() // why it ended is in its log
		close(c.gone)
	}()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note which process tor is: %w", err), c.kill())
	}
	return c, nil
}

// kill ends a tor whose start did not succeed.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill tor (process %d): %w", c.cmd.Process.Pid, err)
	}
	select {
	case <-c.gone:
		return nil
	case <-time.After(killGrace):
		return fmt.Errorf("kill tor: process %d outlives SIGKILL", c.cmd.Process.Pid)
	}
}

// waitReady waits until tor answers, or explains why it does not.
func (d *Daemon) waitReady(ctx context.Context, started *child) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := d.Dial(ctx)
		if err == nil {
			return c.Close()
		}
		select {
		case <-started.gone:
			if says := d.startupReason(); says != "" {
				return fmt.Errorf("it ended: %s", says)
			}
			return errors.New("it ended without a word: is that program tor? try it with --version")
		case <-ctx.Done():
			if says := d.startupReason(); says != "" {
				err = fmt.Errorf("%w; tor says: %s", err, says)
			}
			return fmt.Errorf("wait for tor to answer: %w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// startupReason returns what tor objected to before it opened its log.
func (d *Daemon) startupReason() string {
	text, err := tail(Options{Dir: d.dir}.startupPath())
	if err != nil {
		return err.Error()
	}
	if says := reason(text); says != "" {
		return says
	}
	return lastLine(text)
}

// bindLine is how tor says that a port is not to be had.
var bindLine = regexp.MustCompile(`Could not bind to (\S+):(\d+): ([^.\n;]*)`)

// explainBind turns an error about a port into one that names it.
func (o Options) explainBind(err error) error {
	m := bindLine.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	name := ""
	switch m[2] {
	case fmt.Sprint(o.Ports.Trans):
		name = " (TransPort, TCP)"
	case fmt.Sprint(o.Ports.DNS):
		name = " (DNSPort, UDP)"
	}
	return fmt.Errorf("listen on %s:%s%s: %s; see who holds the port (ss -lntup) or choose another",
		m[1], m[2], name, m[3])
}

// filesWanted is what a router's clients may need at once; 4096 is a common
// hard limit, and tor opens no more connections than it has descriptors.
const filesWanted = 65536

// raiseFileLimit raises the hard limit that tor inherits, to which it raises its own soft one. The
// caller's soft limit stays: a daemon keeps its own low. Without the right to do so tor runs with
// what it has and warns when it runs out.
func raiseFileLimit() {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Max < filesWanted {
		lim.Max = filesWanted
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
	}
}
