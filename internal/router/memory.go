package router

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/torbpf/torbpf/internal/circuits"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/sentry"
)

// memoryPath is where root asks the sentry which circuits devices have used.
func (r *Router) memoryPath() string { return filepath.Join(r.dir, "circuits.sock") }

// listenMemory makes that socket anew, for the sentry to answer by.
func (r *Router) listenMemory() (*os.File, error) {
	listener, err := listenForRoot(r.memoryPath())
	if err != nil {
		return nil, fmt.Errorf("listen for questions about circuits: %w", err)
	}
	defer listener.Close() // the file is a duplicate
	l := listener.(*net.UnixListener)
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("listen for questions about circuits: %w", err)
	}
	return file, nil
}

// recall asks the sentry which circuits were used from where; one that does not answer, or is
// of another version, knows nothing, and who asks has to do without.
func (r *Router) recall(ctx context.Context, devices []netip.Addr) []circuits.Memory {
	memories, err := sentry.Recall(ctx, r.memoryPath(), sentry.Question{Addrs: devices})
	if err != nil {
		return nil
	}
	return memories
}

// recallAll asks for those of all devices, of which it knows by neighbours alone.
func (j *job) recallAll(ctx context.Context) []circuits.Memory {
	neighbours, err := host.Neighbours(j.plan.LANIndices())
	if err != nil {
		return nil // then the next sentry knows nothing of what was before it
	}
	return j.recall(ctx, slices.Collect(maps.Keys(neighbours)))
}

// memoryOf is that of one tor.
func memoryOf(memories []circuits.Memory, instance int) circuits.Memory {
	if instance >= len(memories) {
		return circuits.Memory{}
	}
	return memories[instance]
}
