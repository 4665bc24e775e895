package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
)

// The descriptors that Run hands to the stage, beside the standard three.
const (
	stageOrder   = 3 + iota // a pipe with the order
	stageRefusal            // a pipe that takes a refusal; exec closes it
)

// order says what the stage is to do.
type order struct {
	Policy  config.Policy
	Account account
	Command []string
	Parent  int // pid of Run
}

// refusal says why the program does not run.
type refusal struct {
	Code int // exit code
	Text string
}

func (r refusal) Error() string { return r.Text }

// Stage is the first process of a cell: it puts itself where the program shall be, and
// becomes the program. It returns only if it cannot, and then Run says why.
func Stage() error {
	signal.Reset() // they are the program's
	// What a thread gives up counts for the program that it executes.
	runtime.LockOSThread()
	var o order
	pipe := os.NewFile(stageOrder, "order pipe")
	if err := json.NewDecoder(pipe).Decode(&o); err != nil {
		return fmt.Errorf("read what to run (this is started by exec, not by hand): %w", err)
	}
	err := o.carryOut()
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{Code: codeFailed, Text: fmt.Sprintf("start the program: %v", err)}
	}
	return json.NewEncoder(os.NewFile(stageRefusal, "refusal pipe")).Encode(r)
}

// carryOut returns if anything is not as it must be.
func (o order) carryOut() error {
	if err := o.arrangeMounts(); err != nil {
		return err
	}
	restrict := func() error { return restrictCalls(false) }
	if o.Policy == config.PolicyTor {
		restrict = confineThread
	}
	if err := restrict(); err != nil {
		return err
	}
	if err := o.Account.assume(); err != nil {
		return err
	}
	// Another user's process has lost it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask to end with torbpf exec: %w", err)
	}
	if os.Getppid() != o.Parent {
		return errors.New("torbpf exec has ended")
	}
	if err := kernel.CloseOnExec(); err != nil {
		return err
	}
	return o.become()
}

// assume makes the process this account's. The other threads are on their way out, but the
// library changes all or none.
func (a account) assume() error {
	if !a.Other {
		return nil
	}
	if err := syscall.Setgroups(a.Groups); err != nil {
		return fmt.Errorf("take the groups of user %s: %w", a.Name, err)
	}
	if err := syscall.Setresgid(int(a.GID), int(a.GID), int(a.GID)); err != nil {
		return fmt.Errorf("take the group of user %s: %w", a.Name, err)
	}
	if err := syscall.Setresuid(int(a.UID), int(a.UID), int(a.UID)); err != nil {
		return fmt.Errorf("become user %s: %w", a.Name, err)
	}
	return nil
}

// become executes the program, as the account sees it.
func (o order) become() error {
	path, err := exec.LookPath(o.Command[0])
	if err == nil {
		err = syscall.Exec(path, o.Command, os.Environ())
	}
	code := codeNotExecutable
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = codeNotFound
	}
	return refusal{Code: code, Text: fmt.Sprintf("execute %s: %v", o.Command[0], err)}
}
