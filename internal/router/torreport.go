package router

import (
	"context"
	"fmt"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/tor"
)

// TorReport is all there is to tell of the tors.
type TorReport struct {
	Schema    int            `json:"schema"`
	Mode      config.TorMode `json:"mode"`
	TCPMode   config.TCPMode `json:"tcp_mode"`
	Instances []TorDetails   `json:"instances"`
}

// torReportSchema numbers the shape of TorReport in JSON.
const torReportSchema = 1

// TorDetails is one of the tors, with what it says of itself; of one that does not answer,
// why, and what to do.
type TorDetails struct {
	TorInstance
	Control string `json:"control"` // where it takes commands
	PID     int    `json:"pid"`     // as it says itself; 0 where it does not answer
	// Uptime is how long it has run, as it says.
	Uptime  time.Duration  `json:"uptime_ns"`
	Dormant bool           `json:"dormant"` // it has had nothing to do for long, and builds no circuits until it has
	Network bool           `json:"network"` // it has heard of the Tor network lately
	Warning string         `json:"warning"` // what keeps it from its bootstrap, "" for nothing
	Skew    string         `json:"clock_skew"`
	States  map[string]int `json:"circuit_states"`
	Rate    *tor.Rate      `json:"rate"` // bytes a second, lately; null where it is not known
	Guards  []tor.Guard    `json:"guards"`
	// Bridges are the only ways into the network where there are any, Transports the names of
	// the pluggable ones that they go by.
	Bridges    []tor.BridgeStatus `json:"bridges"`
	Transports []string           `json:"transports"`
	Next       string             `json:"next"` // what to do about one that does not answer
}

// TorReport asks all tors how they are. It changes nothing and takes no lock.
func (r *Router) TorReport(ctx context.Context) (*TorReport, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	status, conditions := r.askTors(ctx, s, d)
	report := &TorReport{Schema: torReportSchema, Mode: status.Mode, TCPMode: status.TCPMode, Instances: []TorDetails{}}
	controls := r.controlAddresses(s)
	for i, t := range status.Instances {
		details := TorDetails{
			TorInstance: t, Control: controls[i], States: map[string]int{}, Guards: []tor.Guard{},
			Bridges: []tor.BridgeStatus{}, Transports: []string{},
		}
		if s.Config.Tor.Mode != config.TorSystem {
			details.Skew = tor.ClockSkew(r.torDir(i))
		}
		if conditions[i] == nil {
			details.Next = r.nextStep(s, i)
		} else if err := details.take(ctx, conditions[i]); err != nil {
			return nil, err
		}
		report.Instances = append(report.Instances, details)
	}
	return report, nil
}

// take notes what a tor has said, and asks it for its bridges.
func (t *TorDetails) take(ctx context.Context, c *tor.Condition) error {
	t.PID, t.Uptime, t.Dormant, t.Network = c.PID, c.Uptime, c.Dormant, c.Network
	t.Warning, t.Rate = c.Progress.Warning, c.Rate
	t.Guards = append(t.Guards, c.Guards...)
	for _, circuit := range c.Circuits {
		t.States[circuit.State]++
	}
	in, err := askBridges(ctx, t.Control)
	if err != nil {
		return fmt.Errorf("read the bridges of tor %d: %w", t.Instance, err)
	}
	if !in.Enabled {
		return nil
	}
	t.Bridges = append(t.Bridges, in.Bridges...)
	for _, program := range in.Transports {
		t.Transports = append(t.Transports, program.Name)
	}
	return nil
}

// nextStep says what to do about a tor that does not answer.
func (r *Router) nextStep(s *State, instance int) string {
	if s.Config.Tor.Mode == config.TorSystem {
		return "start it (systemctl start tor), and look at its log if it does not come up"
	}
	d, err := r.findDaemon(instance)
	if err == nil && d != nil {
		return fmt.Sprintf("process %d hangs: `torbpf run` starts it anew; without that, `sudo kill -9 %d` and `sudo torbpf attach`", d.PID(), d.PID())
	}
	return "start it anew: `sudo torbpf attach`, or let `torbpf run` do it"
}
