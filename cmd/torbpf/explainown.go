package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

// ownFlags say who on this machine sends.
type ownFlags struct {
	own                   bool
	user, cgroup, program string
	pid                   int
}

// registerOwn adds the flags, with what rules name as completions.
func (f *ownFlags) registerOwn(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.own, "own", false, "ask about what this machine itself sends, in client mode")
	flags.StringVar(&f.user, "user", "", "with --own: the user whose program sends it, by name or number")
	flags.StringVar(&f.cgroup, "cgroup", "", "with --own: the control group that it is in, such as /system.slice/ntpsec.service")
	flags.StringVar(&f.program, "program", "", "with --own: the executable file, by an absolute path")
	flags.IntVar(&f.pid, "pid", 0, "with --own: the process, with all of these")
	named := func(kind config.Kind) completion {
		return completeWith(func(r *router.Router) ([]string, error) { return rulesOf(r, kind, true) })
	}
	offer(cmd, "user", named(config.KindUser))
	offer(cmd, "cgroup", named(config.KindCgroup))
	offer(cmd, "program", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
}

// senderFlags are those that mean nothing without --own.
var senderFlags = []string{"user", "cgroup", "program", "pid"}

// apart refuses flags of one kind of question with those of the other.
func (f *ownFlags) apart(cmd *cobra.Command) error {
	if !f.own {
		for _, name := range senderFlags {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--%s says who on this machine sends: add --own, or say --from for a device", name)
			}
		}
		return nil
	}
	for _, name := range []string{"from", "mac", "lan", "type", "watch"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is about what devices send: leave it out, or --own", name)
		}
	}
	if cmd.Flags().Changed("pid") {
		if f.pid <= 0 {
			return fmt.Errorf("--pid %d: no process has this number", f.pid)
		}
		for _, name := range []string{"user", "cgroup", "program"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("a process has its user, control group and program: leave --%s out, or --pid", name)
			}
		}
	}
	return nil
}

// askOwn reads the flags into a question, and asks it.
func (f *explainFlags) askOwn(r *router.Router) (*router.Explanation, error) {
	q := f.question
	return r.ExplainOwn(router.OwnQuestion{
		To: q.To, Protocol: q.Protocol, SrcPort: q.SrcPort, DstPort: q.DstPort, Mark: q.Mark,
		User: f.user, Cgroup: f.cgroup, Program: f.program, PID: f.pid,
	})
}

// errNoOwnName says why no name is asked about.
var errNoOwnName = errors.New("with --own give --to an address: a name is not resolved here, since that would be in clear; who answers its DNS query is told by --to RESOLVER --proto udp --dport 53")
