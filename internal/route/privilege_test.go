package route

import (
	"errors"
	"testing"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/testnet"
)

// A container's root may lack the capability: scripts tell that by exit code.
func TestLackOfPrivilegeIsToldFromFailure(t *testing.T) {
	enterNamespace(t)
	run(t, `
nft add table inet track
nft add chain inet track output { type filter hook output priority 0 ; }
nft add rule inet track output ct state new counter`)
	for name, act := range map[string]func() error{
		"rules":     func() error { return Apply(planFor(nil, "lan0")) },
		"conntrack": func() error { _, err := Flows(); return err },
	} {
		if err := testnet.Unprivileged(act); !errors.Is(err, kernel.ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
