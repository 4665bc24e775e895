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

// readCells tells of what exec runs. A process may end meanwhile.
func (s *Status) readCells(r *Router, state *State) error {
	if len(state.Cells) == 0 {
		return nil
	}
	groups, err := r.groups()
	if err != nil {
		return err
	}
	for _, c := range state.Cells {
		e := ExecStatus{Policy: c.Policy, Cgroup: c.Path, Processes: []int{}, Programs: []string{}}
		if i := slices.IndexFunc(groups, func(g cgroup.Group) bool { return g.ID == c.ID }); i >= 0 {
			pids, err := groups[i].Processes()
			if err != nil {
				return err
			}
			for _, pid := range pids {
				e.add(pid)
			}
		}
		s.Exec = append(s.Exec, e)
	}
	return nil
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
