package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// Router is what a cell needs of the router.
type Router interface {
	// Begin returns when what the group sends goes by the policy, from its first packet
	// on: the datapath knows the group, and for PolicyTor Tor is ready. Nothing runs in the
	// group yet.
	Begin(ctx context.Context, policy config.Policy, group cgroup.Group) error
	// End has the group forgotten, and whatever was there for it alone. The group is empty
	// by then, and still exists, so that no other can have its ID. It follows every Begin,
	// one that failed as well.
	End(ctx context.Context, group cgroup.Group) error
}

// Exit codes of shells and env(1) for what is no answer of the program.
const (
	codeFailed        = 1
	codeNotExecutable = 126
	codeNotFound      = 127
	codeSignal        = 128 // plus the signal's number
)

const (
	// Grace is how long what is asked to end may take until it is killed.
	Grace = 2 * time.Second
	// endPatience is how long the router may take to forget a group.
	endPatience = time.Minute
)

// Options say what Run runs.
type Options struct {
	Router    Router
	Namespace string        // name of the network namespace: "host", "ns-4026532211"
	Policy    config.Policy // PolicyDirect or PolicyTor
	User      string        // whom to run it as, a name or number; "" for who called sudo
	Command   []string      // the program and its arguments
	// Stage is the command line, behind the program's name, by which this program calls
	// Stage.
	Stage []string
}

// Run runs a program in a cell, with the caller's terminal, environment and working
// directory, until it ends; then ends what it has left running. It returns the program's
// exit code, 128 and the signal's number if a signal ended it. An error goes with a code
// as well: 127 if there is no such program, 126 if it cannot be executed, else 1.
func Run(ctx context.Context, o Options) (code int, err error) {
	account, err := findAccount(o.User, os.Getenv)
	if err != nil {
		return codeFailed, err
	}
	// Else a slip of the pen would start a tor first. What the program's user sees decides.
	if _, err := exec.LookPath(o.Command[0]); errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return codeNotFound, fmt.Errorf("find the program: %w", err)
	}
	root, err := cgroup.Tree()
	if err != nil {
		return codeFailed, err
	}
	group, held, err := claim(root, o.Namespace)
	if err != nil {
		return codeFailed, err
	}
	defer held.Close()

	// A hangup or ^\ before the program runs must clear up, too.
	ctx, stop := notifyContext(ctx)
	defer stop()
	if err = o.Router.Begin(ctx, o.Policy, group); err == nil {
		code, err = startAndWait(ctx, order{Policy: o.Policy, Account: account, Command: o.Command, Parent: os.Getpid()}, o.Stage, held)
	}
	if err != nil && code == 0 {
		code = codeFailed
	}
	// Whoever has ended the program has cancelled the context, perhaps.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if endErr := end(ctx, o.Router.End, group); endErr != nil {
		return max(code, codeFailed), errors.Join(err, endErr)
	}
	return code, err
}

// end ends what is left in a group. While anything is, its policy stays.
func end(ctx context.Context, forget func(context.Context, cgroup.Group) error, group cgroup.Group) error {
	if err := group.End(Grace); err != nil {
		return fmt.Errorf("end what the program has left running: %w", err)
	}
	if err := forget(ctx, group); err != nil {
		return fmt.Errorf("forget control group %s: %w", group.Path, err)
	}
	return group.Remove()
}

// startAndWait starts the first process of a cell on a thread that outlives it: when the
// thread that made a process ends, that counts as the parent's death.
func startAndWait(ctx context.Context, o order, stage []string, group *os.File) (code int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, pipes, err := newStage(o, stage, group)
	if err != nil {
		return codeFailed, fmt.Errorf("start the program: %w", err)
	}
	defer pipes.close()
	received := receiveSignals()
	defer received.stop()
	if err := ctx.Err(); err != nil {
		return codeFailed, fmt.Errorf("start the program: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return codeFailed, fmt.Errorf("start the program: %w", kernel.Explain(err, "clone3 into a control group (Linux 5.7, and no container that forbids it)", unix.ENOSYS))
	}
	go received.forward(cmd.Process)
	refused := pipes.handOver(o)
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		return codeFailed, fmt.Errorf("wait for the program: %w", err)
	}
	if refused != nil {
		return refused.Code, errors.New(refused.Text)
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return codeSignal + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// pipes are both ends of what leads to the stage (order) and back (refusal).
type pipes struct {
	orderRead, orderWrite     *os.File
	refusalRead, refusalWrite *os.File
}

func (p *pipes) close() {
	for _, file := range []*os.File{p.orderRead, p.orderWrite, p.refusalRead, p.refusalWrite} {
		if file != nil {
			file.Close() // twice for some, which does no harm
		}
	}
}

func newStage(o order, stage []string, group *os.File) (*exec.Cmd, *pipes, error) {
	p := &pipes{}
	var err error
	if p.orderRead, p.orderWrite, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("create pipe: %w", err)
	}
	if p.refusalRead, p.refusalWrite, err = os.Pipe(); err != nil {
		p.close()
		return nil, nil, fmt.Errorf("create pipe: %w", err)
	}
	// Not the path of the program, whose file an upgrade may just have replaced.
	cmd := exec.Command("/proc/self/exe", stage...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = o.Account.environment(os.Environ())
	if o.Policy == config.PolicyTor {
		cmd.Env = withoutProxies(cmd.Env)
	}
	cmd.ExtraFiles = []*os.File{p.orderRead, p.refusalWrite} // stageOrder, stageRefusal
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
		Cloneflags:  unix.CLONE_NEWNS,
		Pdeathsig:   unix.SIGKILL,
	}
	return cmd, p, nil
}

// handOver tells the stage what to do, and returns when the program runs or does not: nil
// or the reason.
func (p *pipes) handOver(o order) *refusal {
	// Else they would not end with the stage.
	p.orderRead.Close()
	p.refusalWrite.Close()
	// A stage that has died already says more than a broken pipe.
	_ = json.NewEncoder(p.orderWrite).Encode(o)
	p.orderWrite.Close()
	var r refusal
	err := json.NewDecoder(p.refusalRead).Decode(&r)
	switch {
	case errors.Is(err, io.EOF):
		return nil // the program's exec has closed it
	case err != nil:
		return &refusal{Code: codeFailed, Text: fmt.Sprintf("start the program: %v", err)}
	}
	return &r
}
