package testnet

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Unprivileged runs fn in the network namespace of the calling thread, on a
// thread that has no capability. That thread ends with it.
func Unprivileged(fn func() error) error {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer here.Close()
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errGoexit
		defer func() { errc <- err }()
		if err = unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err = unix.Capset(&header, &none[0]); err != nil {
			return
		}
		err = errGoexit
		err = fn()
	}()
	return <-errc
}

// becomeUser makes the calling thread, and it alone, act as a user without privilege. It
// can then not be put back, so it must end with what it does.
func becomeUser(user int) error {
	id := uintptr(user)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("leave all groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return fmt.Errorf("become group %d: %w", user, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return fmt.Errorf("become user %d: %w", user, errno)
	}
	return nil
}
