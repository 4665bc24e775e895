package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenForRoot listens at a unix socket that nobody else can connect to, at no instant: it has its mode before
// it has a name (the kernel gives the file that of the socket, unix(7)). A socket that is there is of one that
// was killed.
func listenForRoot(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		outside := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(outside, err)
	}}
	return config.Listen(context.Background(), "unix", path)
}
