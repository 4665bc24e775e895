package confined

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Accounts that a child may run as, the first that exists.
var accounts = []string{"torbpf", "nobody"}

type account struct {
	uid, gid uint32
}

// findAccount returns who a child is to be. It is never root, nor in root's
// group, which can read files that others cannot.
func findAccount(group uint32) (account, error) {
	for _, name := range accounts {
		found, err := user.Lookup(name)
		if errors.As(err, new(user.UnknownUserError)) {
			continue
		}
		if err != nil {
			return account{}, fmt.Errorf("look up account %s: %w", name, err)
		}
		uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, fmt.Errorf("look up account %s: %w", name, err)
		}
		if group != 0 {
			gid = uint64(group)
		}
		if uid == 0 || gid == 0 {
			return account{}, fmt.Errorf("use account %s: it has root's uid or group; give it others", name)
		}
		return account{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return account{}, fmt.Errorf("find an unprivileged account (%v): none exists; add one: useradd --system %s", accounts, accounts[0])
}

// sysProcAttr makes a child this account's, without supplementary groups and
// out of reach of the terminal. Leaving uid 0 clears the permitted and effective
// capabilities (capabilities(7)).
func (a account) sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid},
	}
}

// startConfined starts a command that can never gain a privilege. Go has no
// hook between fork and exec, so a thread gives up, for itself, what its child
// must not inherit, and dies with that.
func startConfined(cmd *exec.Cmd) error {
	// A thread of our own may come from anywhere; the caller's namespace counts.
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer netns.Close()
	if err := closeAllOnExec(); err != nil {
		return err
	}
	return onDisposableThread(func() error {
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		if err := confineThread(); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// onDisposableThread runs f on a thread that ends with it. The first thread of a
// process cannot end, and is what others see of it: it is held aside.
func onDisposableThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onDisposableThread(f)
			return
		}
		done <- f() // never unlocked
	}()
	return <-done
}

// closeAllOnExec keeps descriptors from the child that this process itself was
// started with, such as the lock of a calling script: it would be held for as
// long as the child runs. Those that Go opens are marked already.
func closeAllOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open descriptors: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// confineThread takes from the calling thread, for its children, every way to a
// privilege: programs with the setuid bit, the bounding set and inheritable
// capabilities.
func confineThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for capability := uintptr(0); ; capability++ {
		bound, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last one that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("read bounding set: %w", err)
		}
		if bound == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", capability, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("drop inheritable capabilities: %w", err)
	}
	return nil
}
