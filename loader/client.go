package loader

import (
	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// clientMode is what a plan has the programs judge of what this machine itself sends.
func clientMode(p *plan.Plan) abi.ClientMode {
	switch {
	case p.Client == nil:
		return abi.ClientNone
	case p.Client.All:
		return abi.ClientAll
	default:
		return abi.ClientExec
	}
}
