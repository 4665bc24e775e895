package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The counters of the table for each way to be dropped by it.
const (
	// DroppedCutPeer counts packets of flows that attach cut off.
	DroppedCutPeer = "cut_peer"
	// DroppedPort counts packets to tor's and the sentry's ports that were not
	// diverted there.
	DroppedPort = "closed_port"
	// DroppedAnswer counts what those ports answered by another way than to a
	// LAN: to a source that was forged or has moved.
	DroppedAnswer = "stray_answer"
	// DroppedError counts what devices say of answers that tc gave them, and that
	// they no longer wait for.
	DroppedError = "unwanted_answer"
	// DroppedBlocked counts packets whose class must not be forwarded.
	DroppedBlocked = "blocked_class"
	// DroppedLocal counts packets for a local subnet that were about to leave
	// by another interface than the subnet's own.
	DroppedLocal = "local_elsewhere"
	// DroppedUnjudged counts packets of a LAN without a class: the tc program
	// is gone or somebody wiped its mark.
	DroppedUnjudged = "unjudged"
	// RefusedLate counts what tc left open (replies, late marks) and nobody
	// decided in its favour.
	RefusedLate = "late_refused"

	// RefusedClient counts what this machine itself sends and Tor cannot carry.
	RefusedClient = "client_refused"
	// DroppedClientUndiverted counts what is Tor's and was not redirected: of
	// connections that are older than client mode, or of sockets bound to an interface.
	DroppedClientUndiverted = "client_undiverted"
	// DroppedClientElsewhere counts packets for a local subnet or an excluded
	// interface that were about to leave by another one, since a rule of somebody
	// else's has changed their route.
	DroppedClientElsewhere = "client_elsewhere"
	// DroppedClientUnjudged counts packets of this machine's own without a class:
	// somebody wiped the mark, or emptied the chain that sets it.
	DroppedClientUnjudged = "client_unjudged"
)

func routerCounters() []string {
	return []string{DroppedCutPeer, DroppedPort, DroppedAnswer, DroppedError, DroppedBlocked, DroppedLocal, DroppedUnjudged, RefusedLate}
}

func clientDrops() []string {
	return []string{RefusedClient, DroppedClientUndiverted, DroppedClientElsewhere, DroppedClientUnjudged}
}

// counterNames are those of the plan's table.
func (b *builder) counterNames() []string {
	if b.Client == nil {
		return routerCounters()
	}
	names := append(routerCounters(), clientDrops()...)
	if !b.Client.All {
		return names
	}
	return append(names, countClientTor, countClientDirect, countClientLocal, countClientOfTor)
}

// Drop is what one guard has dropped since attach.
type Drop struct {
	Guard   string `json:"guard"` // one of the Dropped… names
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Drops reads the counters; there are none without the table.
func Drops() ([]Drop, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if t, err := findTable(conn); err != nil || t == nil {
		return nil, err
	}
	objects, err := listObjects(conn)
	if err != nil {
		return nil, err
	}
	var drops []Drop
	for _, name := range append(routerCounters(), clientDrops()...) {
		if o := objects[name]; o != nil {
			if c, ok := o.Obj.(*expr.Counter); ok {
				drops = append(drops, Drop{Guard: name, Packets: c.Packets, Bytes: c.Bytes})
			}
		}
	}
	return drops, nil
}
