package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/torbpf/torbpf/internal/plan"
)

// The counters of the table, one for each way to be dropped by it.
const (
	// DroppedCutPeer counts packets of flows that attach cut off.
	DroppedCutPeer = "cut_peer"
	// DroppedPort counts packets to tor's and the sentry's ports that were not
	// diverted there.
	DroppedPort = "closed_port"
	// DroppedAnswer counts what those ports answered by another way than to a
	// LAN: to a source that was forged or has moved.
	DroppedAnswer = "stray_answer"
	// DroppedBlocked counts packets whose class must not be forwarded.
	DroppedBlocked = "blocked_class"
	// DroppedLocal counts packets for a local subnet that were about to leave
	// by another interface than the subnet's own.
	DroppedLocal = "local_elsewhere"
	// DroppedUnjudged counts packets of a LAN without a class: the tc program
	// is gone or somebody wiped its mark.
	DroppedUnjudged = "unjudged"
)

func counterNames() []string {
	return []string{DroppedCutPeer, DroppedPort, DroppedAnswer, DroppedBlocked, DroppedLocal, DroppedUnjudged}
}

// Drop is what one guard has dropped since attach.
type Drop struct {
	Guard   string // one of the Dropped… names
	Packets uint64
	Bytes   uint64
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
	counters, _, err := readObjects(conn)
	if err != nil {
		return nil, err
	}
	var drops []Drop
	for _, name := range counterNames() {
		if c, ok := counters[name]; ok {
			drops = append(drops, Drop{Guard: name, Packets: c.Packets, Bytes: c.Bytes})
		}
	}
	return drops, nil
}

// readObjects returns the counters of our table by name, and how many objects
// of other types it has.
func readObjects(conn *nftables.Conn) (counters map[string]expr.Counter, others int, err error) {
	objects, err := conn.GetNamedObjects(table())
	if err != nil {
		return nil, 0, fmt.Errorf("list objects of table inet %s: %w", plan.Table, err)
	}
	counters = make(map[string]expr.Counter)
	for _, object := range objects {
		named, ok := object.(*nftables.NamedObj)
		if !ok {
			others++
			continue
		}
		if c, ok := named.Obj.(*expr.Counter); ok {
			counters[named.Name] = *c
		} else {
			others++
		}
	}
	return counters, others, nil
}
