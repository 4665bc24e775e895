package confined

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/users"
)

// spawnPatience is how long a child may take to begin.
const spawnPatience = 10 * time.Second

// Options say what Spawn starts.
type Options struct {
	// Args is the command line behind the program's name; the program is the
	// one that is running, which must call RunChild for them.
	Args   []string
	Config any // travels to RunChild as JSON
	// Files are the child's from FirstFile on; they stay the caller's, too.
	Files []*os.File
	Env   []string // the whole environment
	Log   *os.File // standard error of the child; nil for none
	Group uint32   // 0 for the account's own
	// Cgroup is the folder, in the cgroup v2 tree, of the control group that the child
	// is to be in from its first instruction on; nil for the caller's (Linux 5.7).
	Cgroup   *os.File
	Patience time.Duration // how long it may take to begin; 0 for the default
}

// Spawn starts a child in the network namespace of the calling thread, in a
// session of its own, without any privilege, and returns when it serves. What
// keeps it from serving (a port that is taken) is the error. The start time
// goes with the pid into Running and Stop.
func (r Role) Spawn(opts Options) (pid int, starttime uint64, err error) {
	account, err := findAccount(opts.Group)
	if err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", r, err)
	}
	c, err := newChild(opts, account)
	if err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", r, err)
	}
	defer c.close()
	if err := startConfined(c.cmd); err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", r, err)
	}
	if starttime, err = c.await(opts.Config, cmp.Or(opts.Patience, spawnPatience)); err != nil {
		// It serves nobody; its end was wanted, so how it ended says nothing.
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		return 0, 0, fmt.Errorf("start %s: %w", r, err)
	}
	// Only a caller that outlives the child needs this, to leave no zombie.
	go func() { _ = c.cmd.Wait() }()
	return c.cmd.Process.Pid, starttime, nil
}

// child is a process about to run, and our ends of its pipes.
type child struct {
	cmd    *exec.Cmd
	config *os.File // we write
	report *os.File // we read
	theirs []*os.File
}

func newChild(opts Options, account users.Account) (_ *child, err error) {
	c := &child{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	configRead, config, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create configuration pipe: %w", err)
	}
	c.config, c.theirs = config, append(c.theirs, configRead)
	report, reportWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create report pipe: %w", err)
	}
	c.report, c.theirs = report, append(c.theirs, reportWrite)

	// Not the path of the program: an upgrade may just have replaced the file,
	// and the account may not be able to reach the directory.
	c.cmd = exec.Command("/proc/self/exe", opts.Args...)
	if path, err := os.Executable(); err == nil {
		c.cmd.Args[0] = path // for ps
	}
	c.cmd.Dir = "/"
	c.cmd.Env = append([]string{}, opts.Env...)            // nil would be ours
	c.cmd.ExtraFiles = slices.Concat(c.theirs, opts.Files) // childConfig, childReport, FirstFile…
	if opts.Log != nil {
		c.cmd.Stderr = opts.Log
	}
	c.cmd.SysProcAttr = attributesOf(account)
	if opts.Cgroup != nil {
		c.cmd.SysProcAttr.UseCgroupFD, c.cmd.SysProcAttr.CgroupFD = true, int(opts.Cgroup.Fd())
	}
	return c, nil
}

// Duplicate copies a descriptor that stays its owner's.
func Duplicate(fd int, name string) (*os.File, error) {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of the %s: %w", name, err)
	}
	return os.NewFile(uintptr(copied), name), nil
}

// close closes what is open of our ends and of the child's ends on our side.
func (c *child) close() {
	for _, file := range append(c.theirs, c.config, c.report) {
		if file != nil {
			file.Close() // twice for some, which does no harm
		}
	}
}

// await hands the running child its configuration and waits for its report.
func (c *child) await(cfg any, patience time.Duration) (starttime uint64, err error) {
	for _, file := range c.theirs {
		file.Close() // else the report would never end if the child dies
	}
	// No lower id can be reused while the child is not waited for.
	stat, err := readStat(c.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	deadline := time.Now().Add(patience)
	if err := errors.Join(c.config.SetDeadline(deadline), c.report.SetDeadline(deadline)); err != nil {
		return 0, fmt.Errorf("set a deadline for its beginning: %w", err)
	}
	// A child that died before it could read may have reported why.
	if err := json.NewEncoder(c.config).Encode(cfg); err != nil && !errors.Is(err, unix.EPIPE) {
		return 0, fmt.Errorf("hand over the configuration: %w", err)
	}
	const longestReport = 4096
	report, err := io.ReadAll(io.LimitReader(c.report, longestReport))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, fmt.Errorf("it did not begin within %v", patience)
	case err != nil:
		return 0, fmt.Errorf("read its report: %w", err)
	case len(report) == 0:
		return 0, errors.New("it died without a word; see its log")
	case string(report) != reportReady:
		return 0, errors.New(string(report))
	}
	return stat.starttime, nil
}
