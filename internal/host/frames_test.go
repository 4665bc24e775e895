package host

import (
	"testing"

	"github.com/cilium/ebpf/features"

	"github.com/torbpf/torbpf/testnet"
)

// TestSendsFrames: a veth takes frames while its far end has NAPI, which GRO switches on.
func TestSendsFrames(t *testing.T) {
	if version, err := features.LinuxVersionCode(); err == nil && version < 6<<16|3<<8 {
		t.Skip("this kernel does not tell features of XDP (Linux 6.3)")
	}
	enterNamespace(t)
	run(t, "ip link add near type veth peer name far")
	run(t, "ip link set near up\nip link set far up")
	near := link(t, read(t), "near").Index
	for _, on := range []bool{false, true, false} {
		if err := testnet.SetGRO("far", on); err != nil {
			t.Fatal(err)
		}
		if sends, err := SendsFrames(near); sends != on || err != nil {
			t.Errorf("with GRO %t at the far end: %t, %v", on, sends, err)
		}
	}
	if sends, err := SendsFrames(9999); sends || err != nil {
		t.Errorf("no interface: %t, %v", sends, err)
	}
}
