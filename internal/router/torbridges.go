package router

import (
	"cmp"
	"context"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/tor"
)

// BridgeReport is what there is to tell of bridges.
type BridgeReport struct {
	Schema     int                    `json:"schema"`
	Enabled    bool                   `json:"enabled"` // every tor that answers enters the network by bridges alone
	Bridges    []BridgeUse            `json:"bridges"`
	Transports []tor.TransportProgram `json:"transports"` // that the bridges need, and their programs
}

// BridgeUse is a bridge as one of the tors has it.
type BridgeUse struct {
	Instance int `json:"instance"`
	tor.BridgeStatus
}

// Bridges tells which bridges the tors have, and whether they go by them; of a tor that does not
// answer what is configured.
func (r *Router) Bridges(ctx context.Context) (*BridgeReport, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	out := &BridgeReport{Schema: 1, Enabled: true, Bridges: []BridgeUse{}, Transports: []tor.TransportProgram{}}
	for i, control := range r.controlAddresses(s) {
		in, err := askBridges(ctx, control)
		if err != nil {
			if in, err = configuredBridges(s.Config.Tor); err != nil {
				return nil, err
			}
		}
		out.Enabled = out.Enabled && in.Enabled
		for _, b := range in.Bridges {
			out.Bridges = append(out.Bridges, BridgeUse{i, b})
		}
		for _, t := range in.Transports {
			if !slices.Contains(out.Transports, t) {
				out.Transports = append(out.Transports, t)
			}
		}
	}
	slices.SortFunc(out.Transports, func(a, b tor.TransportProgram) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func askBridges(ctx context.Context, control string) (*tor.BridgesInUse, error) {
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	c, err := tor.Dial(ctx, control)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Bridges(ctx)
}

// configuredBridges are what a managed tor will have when it is there again.
func configuredBridges(t config.Tor) (*tor.BridgesInUse, error) {
	out := &tor.BridgesInUse{Enabled: len(t.Bridges) > 0}
	for _, line := range t.Bridges {
		b, err := config.ParseBridge(line)
		if err != nil {
			return nil, err
		}
		out.Bridges = append(out.Bridges, tor.BridgeStatus{Transport: b.Transport, Address: b.Addr.String(), Fingerprint: b.Fingerprint, State: "unknown"})
	}
	var err error
	out.Transports, err = tor.Transports(t.Bridges, t.Transports)
	return out, err
}
