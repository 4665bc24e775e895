package testnet

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetGRO switches generic receive offload of an interface of the calling thread's namespace
// (ETHTOOL_SGRO of linux/ethtool.h); veth uses NAPI while it is on, and takes frames.
func SetGRO(name string, on bool) error { return setOffload(name, 0x2c, on) }

// SetTSO switches TCP segmentation offload likewise (ETHTOOL_STSO): without it frames go out
// that are no longer than the link takes.
func SetTSO(name string, on bool) error { return setOffload(name, 0x1f, on) }

func setOffload(name string, command uint32, on bool) error {
	value := struct{ command, data uint32 }{command: command}
	if on {
		value.data = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the union in struct ifreq
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&value)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to set an offload: %w", err)
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return fmt.Errorf("set offload %#x of %s: %w", command, name, errno)
	}
	return nil
}
