package nft

import (
	"errors"
	"testing"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

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
