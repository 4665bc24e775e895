package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
	"github.com/torbpf/torbpf/tor"
)

// TestDevicesHaveCircuitsOfTheirOwn: what one device does cannot be told to be the same
// household's as what another does by the circuit that it came by.
func TestDevicesHaveCircuitsOfTheirOwn(t *testing.T) {
	lab := torLab(t)
	serveFlows(t, lab, testnet.Web4, testnet.Other4)
	attach(t, lab, lan)
	const flows = 4
	for range flows { // one after the other, so that there is a circuit to share
		openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows))
		openFlow(t, lab.Client2, "tcp", at(testnet.Other4, portFlows))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := tor.Dial(ctx, tor.SocketPath(filepath.Join(stateDir(t, lab), "tor")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	streams, err := c.GetInfo(ctx, "stream-status")
	if err != nil {
		t.Fatal(err)
	}
	owners := make(map[string]map[string]int) // by circuit, the streams to each server
	total := 0
	for line := range strings.Lines(streams) { // control-spec: ID status circuit target
		if fields := strings.Fields(line); len(fields) >= 4 && fields[1] == "SUCCEEDED" {
			if owners[fields[2]] == nil {
				owners[fields[2]] = make(map[string]int)
			}
			owners[fields[2]][fields[3]]++
			total++
		}
	}
	if total != 2*flows || len(owners) < 2 {
		t.Fatalf("%d streams on %d circuits: %q", total, len(owners), streams)
	}
	for circuit, of := range owners {
		if len(of) > 1 {
			t.Errorf("circuit %s is shared: %v", circuit, of)
		}
	}
}
