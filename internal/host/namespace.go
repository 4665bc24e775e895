package host

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// FirstNamespace is the name of the network namespace of process 1.
const FirstNamespace = "host"

// NS identifies a network namespace.
type NS struct {
	// Name is FirstNamespace or "ns-INODE".
	Name string
	// Inode is unique among the namespaces that exist at the same time.
	Inode uint64
	// Cookie is never given twice while the machine is up, unlike an inode:
	// with it, state left by a namespace that is gone can be told from one's
	// own. 0 before Linux 5.14.
	Cookie uint64
}

// Namespace identifies the network namespace of the calling thread.
func Namespace() (NS, error) {
	var own, ownDevices, firstDevices unix.Stat_t
	for _, f := range []struct {
		path string
		stat *unix.Stat_t
	}{
		{"/proc/thread-self/ns/net", &own},
		// A namespace has one file of that name, whose inode anyone may see;
		// /proc/1/ns/net is shown to tracers only, and root in a container
		// may not be one.
		{"/proc/thread-self/net/dev", &ownDevices},
		{"/proc/1/net/dev", &firstDevices},
	} {
		if err := unix.Stat(f.path, f.stat); err != nil {
			return NS{}, fmt.Errorf("identify network namespace: look at %s: %w", f.path, err)
		}
	}
	cookie, err := kernel.NamespaceCookie()
	if err != nil {
		return NS{}, err
	}
	ns := NS{Name: fmt.Sprintf("ns-%d", own.Ino), Inode: own.Ino, Cookie: cookie}
	if ownDevices.Dev == firstDevices.Dev && ownDevices.Ino == firstDevices.Ino {
		ns.Name = FirstNamespace
	}
	return ns, nil
}
