package router

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/service"
)

// managerPatience bounds how long a service manager is waited for that does not answer.
const managerPatience = 5 * time.Second

// lookAtBoot finds out whether a reboot brings back what is attached, by the file that
// `torbpf run` reads.
func (g *gathering) lookAtBoot(ctx context.Context, file string) {
	ctx, cancel := context.WithTimeout(ctx, managerPatience)
	defer cancel()
	b := &g.facts.Boot
	m, err := service.Find(ctx)
	b.Managed = !errors.Is(err, service.ErrNoManager)
	b.Service = b.Managed && !errors.Is(err, service.ErrNoService)
	if !b.Service {
		return
	}
	if err == nil {
		b.Enabled, err = m.Enabled(ctx)
	}
	if err != nil {
		g.unread(err, doctor.CheckBoot)
		return
	}
	if b.File = file; file == "" {
		b.File = config.DefaultFile
	}
	b.Missing = unnamed(g.state.Config, b.File)
}

// unnamed is what is on Tor by a configuration and not by a file. One that cannot be read names
// nothing: then a boot blocks what it has named, and serves nobody.
func unnamed(c config.Config, file string) []string {
	var out []string
	read, _ := config.LoadPart(file)
	for _, name := range c.Interfaces {
		if !slices.ContainsFunc(read.Interfaces, func(n string) bool {
			return n == name || config.IsPattern(n) && config.MatchesPattern(n, name)
		}) {
			out = append(out, name)
		}
	}
	if c.Client.Enable && !read.Client.Enable {
		out = append(out, "this machine itself")
	}
	return out
}
