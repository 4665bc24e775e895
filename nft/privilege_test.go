package nft

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

// TestAMissingModuleIsToldFromFailure: the kernel says of a kind that it does not know that
// there is no such thing.
func TestAMissingModuleIsToldFromFailure(t *testing.T) {
	enterFreshNetNS(t)
	rs, err := build(fullPlan())
	if err != nil {
		t.Fatal(err)
	}
	rs.chains[0].Type = "none"
	if err := rs.apply(); !errors.Is(err, kernel.ErrMissing) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("a chain of an unknown type: %v", err)
	}
}

// A container's root may lack the capability: scripts tell that by exit code.
func TestLackOfPrivilegeIsToldFromFailure(t *testing.T) {
	enterFreshNetNS(t)
	for name, act := range map[string]func() error{
		"apply":  func() error { return Apply(fullPlan()) },
		"remove": Remove,
		"probe": func() error {
			_, err := Arrived(nil, func() error { return nil })
			return err
		},
		"cut": func() error { return AddCut(someFlows(1)) },
	} {
		if err := testnet.Unprivileged(act); !errors.Is(err, kernel.ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
