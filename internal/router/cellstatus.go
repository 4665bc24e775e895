package router

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
)

// ExecStatus is what one `torbpf exec` runs.
type ExecStatus struct {
	Policy    config.Policy `json:"policy"`
	Cgroup    string        `json:"cgroup"`    // its path below the root
	Processes []int         `json:"processes"` // the program and its children
	Programs  []string      `json:"programs"`  // their names, each once
}

// execStatus tells of what exec runs. A process may end meanwhile.
func (r *Router) execStatus(s *State) ([]ExecStatus, error) {
	out := []ExecStatus{}
	if len(s.Cells) == 0 {
		return out, nil
	}
	groups, err := r.groups()
	if err != nil {
		return nil, err
	}
	for _, c := range s.Cells {
		e := ExecStatus{Policy: c.Policy, Cgroup: c.Path, Processes: []int{}, Programs: []string{}}
		if i := slices.IndexFunc(groups, func(g cgroup.Group) bool { return g.ID == c.ID }); i >= 0 {
			pids, err := groups[i].Processes()
			if err != nil {
				return nil, err
			}
			for _, pid := range pids {
				e.add(pid)
			}
		}
		out = append(out, e)
	}
	return out, nil
}

func (e *ExecStatus) add(pid int) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return // it has ended
	}
	e.Processes = append(e.Processes, pid)
	if name := strings.TrimSpace(string(comm)); !slices.Contains(e.Programs, name) {
		e.Programs = append(e.Programs, name)
	}
}

// proxyPort is that of the proxy that is to run; 0 for none.
func (s *State) proxyPort() uint16 {
	if !s.Config.Client.Enable {
		return 0
	}
	return s.Config.Client.ProxyPort
}
