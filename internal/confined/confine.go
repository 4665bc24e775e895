package confined

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/users"
)

// Accounts that a child may run as, the first that exists.
var accounts = []string{"torbpf", "nobody"}

// findAccount returns who a child is to be. It is never root, nor in root's
// group, which can read files that others cannot.
func findAccount(group uint32) (users.Account, error) {
	for _, name := range accounts {
		found, err := user.Lookup(name)
		if errors.As(err, new(user.UnknownUserError)) {
			continue
		}
		if err != nil {
			return users.Account{}, fmt.Errorf("look up account %s: %w", name, err)
		}
		account, err := users.Of(found)
		if err != nil {
			return users.Account{}, err
		}
		if group != 0 {
			account.GID = group
		}
		if account.UID == 0 || account.GID == 0 {
			return users.Account{}, fmt.Errorf("use account %s: it has root's uid or group; give it others", name)
		}
		return account, nil
	}
	return users.Account{}, fmt.Errorf("find an unprivileged account (%v): none exists; add one: useradd --system %s", accounts, accounts[0])
}

// attributesOf makes a child an account's, without supplementary groups and
// out of reach of the terminal. Leaving uid 0 clears the permitted and effective
// capabilities (capabilities(7)).
func attributesOf(a users.Account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: a.UID, Gid: a.GID},
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
	if err := kernel.CloseOnExec(); err != nil {
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

// confineThread takes from the calling thread, for its children, every way to a
// privilege: programs with the setuid bit, the bounding set and inheritable
// capabilities.
func confineThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := kernel.BoundCapabilities(0); err != nil {
		return err
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
