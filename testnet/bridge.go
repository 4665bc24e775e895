package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bridgeSpec is a relay that no consensus lists.
var bridgeSpec = relaySpec{"bridge", roleMiddle, netip.MustParseAddr("45.41.0.1"), netip.Addr{}}

// portBridge is where the bridge's pluggable transport listens.
const portBridge = 4430

// BridgeAddr is where clients of StartBridge's bridge connect to.
var BridgeAddr = netip.AddrPortFrom(bridgeSpec.ip4, portBridge)

// StartBridge adds a bridge with the transport obfs4 to the Tor network, and returns the line by
// which clients enter through it. It ends with the lab; a second call returns the same line.
func (l *Lab) StartBridge(ctx context.Context) (string, error) {
	if l.Tor.bridge != "" {
		return l.Tor.bridge, nil
	}
	program, err := exec.LookPath("obfs4proxy")
	if err != nil {
		return "", fmt.Errorf("find the transport of a bridge: %w; packaging/deps.sh test installs it", err)
	}
	r := &relay{relaySpec: bridgeSpec}
	if r.keys, err = newRelayKeys(false); err != nil {
		return "", err
	}
	torrc := l.commonTorrc(r.name) + l.ClientTorrc() + l.relayTorrc(r) + lines(
		"ExitRelay 0",
		"BridgeRelay 1",
		"PublishServerDescriptor 0",
		"BridgeDistribution none",
		"ExtORPort auto",
		"ServerTransportPlugin obfs4 exec "+program,
		fmt.Sprintf("ServerTransportListenAddr obfs4 %s", BridgeAddr),
	)
	if err := errors.Join(l.writeTorFile(r.name+".torrc", torrc), r.keys.write(l.torDir(r.name))); err != nil {
		return "", err
	}
	l.Tor.ports[BridgeAddr] = true
	if err := l.startAndListen(ctx, []*relay{r}); err != nil {
		return "", err
	}
	var cert string
	err = waitFor(ctx, "the bridge's transport", func() (bool, error) {
		text, _ := os.ReadFile(filepath.Join(r.tor.dir, "pt_state", "obfs4_bridgeline.txt")) // not there yet
		_, after, found := strings.Cut(string(text), "cert=")
		cert, _, _ = strings.Cut(after, " ")
		return found, r.tor.exited()
	})
	if err != nil {
		return "", err
	}
	l.Tor.bridge = fmt.Sprintf("obfs4 %s %s cert=%s iat-mode=0", BridgeAddr, r.keys.fingerprint, cert)
	return l.Tor.bridge, nil
}
