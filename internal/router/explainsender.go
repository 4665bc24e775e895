package router

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/cgroup"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/sockets"
	"github.com/torbpf/torbpf/loader"
)

// findSender says who makes the socket, as far as the question does.
func (x *ownExplained) findSender() error {
	if x.PID != 0 {
		p, err := sockets.Find(x.PID)
		if err != nil {
			return config.Invalid("--pid %d: %w", x.PID, err)
		}
		x.sender = loader.Sender{User: &p.User, Program: p.Program, Cgroups: p.Cgroups}
		return nil
	}
	entries, err := x.senderEntries()
	if err != nil {
		return err
	}
	var named config.Rules
	for _, e := range entries {
		named = append(named, config.Direct(e))
	}
	found, err := host.Resolve(named)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Kind {
		case config.KindUser:
			id, ok := found.Users[e.User]
			if !ok {
				return config.Invalid("--user %s: this machine has no such user", e.User)
			}
			x.sender.User = &id
		case config.KindProgram:
			id, ok := found.Programs[e.Program]
			if !ok {
				return config.Invalid("--program %s: there is no such file", e.Program)
			}
			x.sender.Program = id
		default:
			if x.sender.Cgroups, err = groupsUpFrom(e.Cgroup); err != nil {
				return err
			}
		}
	}
	return nil
}

// senderEntries are the flags, read as entries of rules are.
func (x *ownExplained) senderEntries() (out []config.Entry, err error) {
	for _, f := range []struct {
		kind config.Kind
		text string
	}{{config.KindUser, x.User}, {config.KindCgroup, x.Cgroup}, {config.KindProgram, x.Program}} {
		if f.text == "" {
			continue
		}
		e, err := config.ParseEntry(f.kind, f.text)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// groupsUpFrom are the ids of a control group and of those above it.
func groupsUpFrom(group string) ([]uint64, error) {
	root, err := cgroup.Tree()
	if err != nil {
		return nil, err
	}
	var out []uint64
	for ; ; group = path.Dir(group) {
		id, err := cgroup.ID(root, group)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, config.Invalid("--cgroup %s: there is no such control group: systemd-cgls, or /proc/PID/cgroup, tells the paths", group)
		}
		if err != nil {
			return nil, err
		}
		if out = append(out, id); group == "/" {
			return out, nil
		}
	}
}

// senderWords are whom the question names.
func (x *ownExplained) senderWords() string {
	if x.PID != 0 {
		return fmt.Sprintf("process %d", x.PID)
	}
	var out []string
	for _, f := range []struct{ kind, text string }{{"user", x.User}, {"control group", x.Cgroup}, {"program", x.Program}} {
		if f.text != "" {
			out = append(out, f.kind+" "+f.text)
		}
	}
	return strings.Join(out, ", ")
}

// unnamed tells whether nobody was named, and rules for senders were left out so.
func (x *ownExplained) unnamed() bool {
	return x.sender.User == nil && x.sender.Program == (plan.FileID{}) && len(x.sender.Cgroups) == 0
}

// senderRule is the rule of the user's about the sender; nil for none, or one of torbpf's own.
func (x *ownExplained) senderRule() *config.Rule {
	if !x.ruled || x.by.Rule < 0 || x.by.Rule >= len(x.plan.Client.Rules) {
		return nil
	}
	rule := x.plan.Client.Rules[x.by.Rule]
	if kinds[x.by.Kind] != rule.Kind {
		return nil // the list has changed meanwhile
	}
	if x.by.Beneath && rule.Beneath != nil {
		beneath := *rule.Beneath
		beneath.Entry, rule = rule.Entry, beneath
	}
	return &rule
}

// kinds are those of rules about senders, as the programs number them.
var kinds = map[abi.IdentityKind]config.Kind{
	abi.IdentityUser: config.KindUser, abi.IdentityCgroup: config.KindCgroup, abi.IdentityProgram: config.KindProgram,
}
