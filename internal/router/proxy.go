package router

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/proxy"
)

// ProxyState is the clearnet proxy that runs.
type ProxyState struct {
	Process
	Config proxy.Config `json:"config"`
}

func (p *ProxyState) running() bool { return p != nil && proxy.Running(p.PID, p.StartTime) }

// wantedProxy is the proxy of a configuration; nil for none.
func wantedProxy(s *State, p *plan.Plan) *proxy.Config {
	port := s.proxyPort()
	if port == 0 {
		return nil
	}
	return &proxy.Config{Port: port, Resolver: p.Resolver, OnionPrefixes: []netip.Prefix{p.Onion4, p.Onion6}}
}

// newLog makes a file that a process of ours writes to for its life. It appends, so that who empties the
// file meanwhile, as logrotate does, or another of that name while the last one ends, leaves no hole.
func newLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}

// startProxy has the proxy run that is wanted, or none. One that serves already as it
// should goes on, and its tunnels with it.
func (j *job) startProxy(context.Context) error {
	wanted := wantedProxy(j.state, j.plan)
	now := j.state.Proxy
	if wanted != nil && now.running() && reflect.DeepEqual(now.Config, *wanted) {
		return nil
	}
	if err := stopProxy(j.state); err != nil || wanted == nil {
		return err
	}
	log, err := newLog(j.proxyLog())
	if err != nil {
		return fmt.Errorf("open the proxy's log: %w", err)
	}
	defer log.Close()
	group, err := j.openGroup(j.state.Config, groupProxy)
	if err != nil {
		return err
	}
	defer group.Close()
	pid, started, err := proxy.Spawn(proxy.SpawnOptions{Args: []string{"proxy"}, Config: *wanted, Cgroup: group, Log: log})
	if err != nil {
		return err
	}
	j.state.Proxy = &ProxyState{Process{pid, started}, *wanted}
	return nil
}

// stopProxy ends the proxy of a state, if there is one.
func stopProxy(s *State) error {
	if s.Proxy == nil {
		return nil
	}
	if err := proxy.Stop(s.Proxy.PID, s.Proxy.StartTime); err != nil {
		return err
	}
	s.Proxy = nil
	return nil
}

const proxyName = "proxy.log"

func (r *Router) proxyLog() string { return filepath.Join(r.dir, proxyName) }
