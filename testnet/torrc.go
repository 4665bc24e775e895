package testnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// votingInterval is the least that clients without TestingTorNetwork accept,
	// and torbpf's tor is such a client.
	votingInterval = 300 * time.Second

	// minPhase is the least that tor takes for each of a vote's two phases.
	minPhase = 2 * time.Second

	// leadTime is between telling the authorities of a vote and the vote.
	leadTime = 2 * time.Second
)

// writeTorFiles writes configuration and keys of every tor, and what they share.
func (l *Lab) writeTorFiles() error {
	shared := map[string]string{
		"client.torrc": l.ClientTorrc(),
		"bandwidth":    bandwidthFile(l.Tor.relays),
		"geoip":        "", // reading the real one costs each tor a tenth of a second
	}
	for name, content := range shared {
		if err := l.writeTorFile(name, content); err != nil {
			return err
		}
	}
	for _, r := range l.Tor.relays {
		// bind-to counts only for the name servers after it.
		resolvConf := fmt.Sprintf("options bind-to:%s\nnameserver %s\n", r.ip4, Resolver4)
		if err := l.writeTorFile(r.name+".resolv.conf", resolvConf); err != nil {
			return err
		}
		if err := l.writeRelayTorrc(r, scheduleLater()); err != nil {
			return err
		}
		if err := r.keys.write(l.torDir(r.name)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(l.torDir("onion"), 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	onion := l.commonTorrc("onion") + l.ClientTorrc() + l.onionTorrc()
	return l.writeTorFile("onion.torrc", onion)
}

func (l *Lab) writeRelayTorrc(r *relay, s schedule) error {
	torrc := l.commonTorrc(r.name) + l.ClientTorrc() + l.relayTorrc(r)
	switch r.role {
	case roleAuthority:
		torrc += l.authorityTorrc(r, s)
	case roleExit:
		torrc += l.exitTorrc(r)
	default:
		torrc += "ExitRelay 0\n"
	}
	return l.writeTorFile(r.name+".torrc", torrc)
}

func (l *Lab) writeTorFile(name, content string) error {
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(content), 0o644); err != nil {
		return fmt.Errorf("write tor file: %w", err)
	}
	return nil
}

func (l *Lab) torDir(name string) string { return filepath.Join(l.dir, name) }

// commonTorrc makes a tor end with the lab's process, should Close never run.
func (l *Lab) commonTorrc(name string) string {
	return lines(
		"DataDirectory "+l.torDir(name),
		"Log notice file "+filepath.Join(l.dir, name+".log"),
		"GeoIPFile "+filepath.Join(l.dir, "geoip"),
		"GeoIPv6File "+filepath.Join(l.dir, "geoip"),
		"SafeLogging 0",
		"SocksPort 0",
		fmt.Sprintf("__OwningControllerProcess %d", os.Getpid()),
	)
}

func (l *Lab) relayTorrc(r *relay) string {
	return lines(
		"TestingTorNetwork 1",
		"Nickname "+r.name,
		"ContactInfo testnet",
		fmt.Sprintf("Address %s", r.ip4),
		fmt.Sprintf("ORPort %s:%d IPv4Only", r.ip4, portOR),
		fmt.Sprintf("OutboundBindAddress %s", r.ip4),
		"AssumeReachable 1",
		"NumCPUs 1",
		"ShutdownWaitLength 0",
		// TestingTorNetwork lowers these two; relays and clients would then disagree
		// about the time periods of onion services.
		fmt.Sprintf("V3AuthVotingInterval %d", int(votingInterval.Seconds())),
		fmt.Sprintf("TestingV3AuthInitialVotingInterval %d", int(votingInterval.Seconds())),
	)
}

func (l *Lab) authorityTorrc(r *relay, s schedule) string {
	phase := int(s.phase.Seconds())
	return lines(
		"AuthoritativeDirectory 1",
		"V3AuthoritativeDirectory 1",
		"ExitRelay 0",
		fmt.Sprintf("DirPort %s:%d", r.ip4, portDir),
		// Votes are held at multiples of the interval; the offset moves the
		// first one here instead of five minutes away.
		fmt.Sprintf("TestingV3AuthVotingStartOffset %d", s.consensus.Unix()%int64(votingInterval.Seconds())),
		fmt.Sprintf("TestingV3AuthInitialVoteDelay %d", phase),
		fmt.Sprintf("TestingV3AuthInitialDistDelay %d", phase),
		fmt.Sprintf("V3AuthVoteDelay %d", phase),
		fmt.Sprintf("V3AuthDistDelay %d", phase),
		"V3BandwidthsFile "+filepath.Join(l.dir, "bandwidth"),
		// Time periods of 24 voting intervals, which relays assume, and no
		// learning of timeouts from circuits that all take a millisecond.
		"ConsensusParams hsdir_interval=120 cbtdisabled=1",
		"AuthDirVoteStableGuaranteeMinUptime 0",
		"AuthDirVoteStableGuaranteeMTBF 0",
		"TestingDirAuthVoteGuard *",
		"TestingDirAuthVoteHSDir *",
		"MinUptimeHidServDirectoryV2 0",
	)
}

func (l *Lab) exitTorrc(r *relay) string {
	return lines(
		"ExitRelay 1",
		"IPv6Exit 1",
		"ExitPolicy accept *:*",
		fmt.Sprintf("OutboundBindAddress [%s]", r.ip6),
		"ServerDNSResolvConfFile "+filepath.Join(l.dir, r.name+".resolv.conf"),
		"ServerDNSDetectHijacking 0",
		"ServerDNSSearchDomains 0",
		"ServerDNSTestAddresses web."+Zone,
	)
}

func (l *Lab) onionTorrc() string {
	return lines(
		"HiddenServiceDir "+filepath.Join(l.torDir("onion"), "service"),
		fmt.Sprintf("HiddenServicePort %d %s:%d", PortHTTP, Web4, PortHTTP),
		fmt.Sprintf("OutboundBindAddress %s", onionAddr),
		"ControlPort unix:"+filepath.Join(l.torDir("onion"), "control"),
		"CookieAuthentication 0",
	)
}

// bandwidthFile gives all relays the same weight; measured by themselves they would
// differ by chance, and with them how often a test meets each exit.
func bandwidthFile(relays []*relay) string {
	text := fmt.Sprintf("%d\n", time.Now().Unix())
	for _, r := range relays {
		text += fmt.Sprintf("node_id=$%s bw=1000 nick=%s\n", r.keys.fingerprint, r.name)
	}
	return text
}

func lines(options ...string) string { return strings.Join(options, "\n") + "\n" }
