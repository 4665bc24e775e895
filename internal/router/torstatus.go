package router

import (
	"context"
	"sync"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/tor"
)

// TorStatus is the tor behind the router; of several the one that is furthest.
type TorStatus struct {
	Mode      config.TorMode `json:"mode"`
	TCPMode   config.TCPMode `json:"tcp_mode"` // how TCP of LANs gets there
	Alive     bool           `json:"alive"`
	Version   string         `json:"version"`
	Percent   int            `json:"percent"` // of its bootstrap
	Summary   string         `json:"summary"`
	TransPort uint16         `json:"trans_port"`
	DNSPort   uint16         `json:"dns_port"`
	Onion4    string         `json:"onion4"` // the ranges of all of them
	Onion6    string         `json:"onion6"`
	Instances []TorInstance  `json:"instances"`
}

// TorInstance is one of the tors.
type TorInstance struct {
	Instance  int    `json:"instance"`
	Alive     bool   `json:"alive"`
	Version   string `json:"version"`
	Percent   int    `json:"percent"`
	Summary   string `json:"summary"`
	Ready     bool   `json:"ready"` // its devices are served: it is bootstrapped, and its gate is open
	TransPort uint16 `json:"trans_port"`
	DNSPort   uint16 `json:"dns_port"`
	Onion4    string `json:"onion4"`
	Onion6    string `json:"onion6"`
	Devices   int    `json:"devices"`  // that have sent something by Tor since attach, and use it now
	Circuits  int    `json:"circuits"` // built ones
	// Read and Written are bytes since this tor was started, from and to relays.
	Read    uint64 `json:"read_bytes"`
	Written uint64 `json:"written_bytes"`
}

// torStatus asks all tors how they are.
func (r *Router) torStatus(ctx context.Context, s *State, d *loader.Datapath) TorStatus {
	status, _ := r.askTors(ctx, s, d)
	return status
}

// askTors asks all of them at once, since one that hangs takes its time. Of one that does not
// answer there is no condition.
func (r *Router) askTors(ctx context.Context, s *State, d *loader.Datapath) (TorStatus, []*tor.Condition) {
	controls := r.controlAddresses(s)
	status := TorStatus{Mode: s.Config.Tor.Mode, TCPMode: s.Config.Tor.TCPMode, Instances: make([]TorInstance, len(controls))}
	conditions := make([]*tor.Condition, len(controls))
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	var asked sync.WaitGroup
	ask := func(i int) { status.Instances[i], conditions[i] = askTor(ctx, controls[i]) }
	for i := range controls[1:] {
		asked.Go(func() { ask(i + 1) })
	}
	ask(0) // by TCP perhaps, so in this thread's namespace
	asked.Wait()
	open, err := d.GatesOpen(len(controls))
	for i := range status.Instances {
		t := &status.Instances[i]
		t.Ready = err == nil && open[i] // what cannot be read is a problem that is found elsewhere
		t.Instance = i
		t.TransPort, t.DNSPort = config.PortOf(s.Config.Tor.TransPort, i), config.PortOf(s.Config.Tor.DNSPort, i)
	}
	status.countDevices(d)
	best := status.Instances[0]
	for _, t := range status.Instances {
		if t.Alive && (!best.Alive || t.Percent > best.Percent) {
			best = t
		}
	}
	status.Alive, status.Version, status.Percent, status.Summary = best.Alive, best.Version, best.Percent, best.Summary
	status.TransPort, status.DNSPort = s.Config.Tor.TransPort, s.Config.Tor.DNSPort
	return status, conditions
}

// askTor asks one tor how it is.
func askTor(ctx context.Context, control string) (TorInstance, *tor.Condition) {
	condition, err := func() (*tor.Condition, error) {
		c, err := tor.Dial(ctx, control)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.Condition(ctx)
	}()
	if err != nil {
		return TorInstance{Summary: err.Error()}, nil
	}
	status := TorInstance{
		Alive: true, Version: condition.Version, Percent: condition.Progress.Percent, Summary: condition.Progress.Summary,
		Read: condition.Read, Written: condition.Written,
	}
	for _, c := range condition.Circuits {
		if c.State == tor.Built {
			status.Circuits++
		}
	}
	return status, condition
}

// countDevices says how many of the devices that have sent something by Tor each has now. That
// cannot be read only where other things are amiss, of which is told.
func (s *TorStatus) countDevices(d *loader.Datapath) {
	traffic, err := d.DeviceTraffic()
	if err != nil {
		return
	}
	for _, t := range traffic {
		if t.ByFate[abi.FateTor].Packets == 0 {
			continue
		}
		key := abi.DatapathDeviceKey{Mac: abi.DatapathMac{Addr: t.MAC}}
		if t.MAC == (config.MAC{}) {
			key.Addr = t.Addr.As16()
		}
		s.Instances[s.instanceOf(key)].Devices++
	}
}

func (s *TorStatus) instanceOf(device abi.DatapathDeviceKey) int {
	return abi.InstanceOf(device, len(s.Instances), func(i int) bool { return s.Instances[i].Ready })
}

// plan says what a plan tells of the tors.
func (s *TorStatus) plan(p *plan.Plan) {
	s.Onion4, s.Onion6 = p.Onion4.String(), p.Onion6.String()
	for i, t := range p.Tors() {
		if i < len(s.Instances) {
			s.Instances[i].Onion4, s.Instances[i].Onion6 = t.Onion4.String(), t.Onion6.String()
		}
	}
}
