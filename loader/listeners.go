package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// shapeListeners has no map of sockets where no program uses it: a kernel may be built
// without, and loads the programs all the same.
func shapeListeners(spec *ebpf.CollectionSpec, p *plan.Plan) error {
	if !p.TProxy {
		spec.Maps[abi.DatapathMapTorListeners].Type = ebpf.Array
		return nil
	}
	err := features.HaveMapType(ebpf.SockMap)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return kernel.Lacks(err, `for tcp_mode "tproxy" a kernel with maps of sockets (CONFIG_NET_SOCK_MSG, before Linux 5.11 CONFIG_BPF_STREAM_PARSER): choose "redirect" (--tcp-mode)`)
	}
	if err != nil {
		return fmt.Errorf("try a map of sockets: %w", err)
	}
	return nil
}

// fitMap has an object declare a map as the generation has it: that of a plan with many addresses
// has grown, and that of the listeners is one of sockets only where they are used.
func fitMap(m *ebpf.MapSpec, theirs *ebpf.Map) {
	m.MaxEntries = theirs.MaxEntries()
	if m.Name == abi.DatapathMapTorListeners {
		m.Type = theirs.Type()
	}
}

// Listener is a place where tor takes connections that are handed to it: of one instance, for one family.
type Listener struct {
	Instance uint32
	IPv6     bool
}

// place is where the programs look for it; see handover.h.
func (l Listener) place() uint32 { return 2*l.Instance + setting(l.IPv6) }

// HandTo has the programs hand connections to a socket that listens, by its descriptor. The
// socket has to be transparent (IP_TRANSPARENT), and to have the class of Tor for its mark. When it
// is closed nobody has the place any more.
func (d *Datapath) HandTo(l Listener, descriptor int) error {
	m, err := d.openMap(abi.DatapathMapTorListeners)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Put(l.place(), uint64(descriptor)); err != nil {
		return fmt.Errorf("have connections handed to tor's socket: %w", err)
	}
	return nil
}

// HandsTo tells whether there is a socket for a place.
func (d *Datapath) HandsTo(l Listener) (bool, error) {
	m, err := d.openMap(abi.DatapathMapTorListeners)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer m.Close()
	var cookie uint64
	err = m.Lookup(l.place(), &cookie)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up tor's socket: %w", err)
	}
	return m.Type() == ebpf.SockMap, nil
}
