// Package tor is torbpf's narrow interface to tor: it starts and stops the
// distribution's program as an unprivileged account, keeps its configuration,
// asks it how far it has come, and judges whether a tor that is already
// running can serve a LAN. Processes and the control protocol are those of
// github.com/cretz/bine; its events are not used, because waiting for one
// deadlocks under load. State is polled instead.
//
// The files of a managed instance:
//
//	Options.Dir          root, 0755
//	  torrc              root, 0640, group of the account: equals what tor runs with
//	  process.json       root, 0644: pid and start time, to recognise our tor again
//	  startup.log        root, 0644: what tor said before its own log was open
//	  run/               the account, 0750
//	    control          control socket, group-writable
//	    control.cookie   group-readable
//	    notice.log       tor's log, from this start on
//	Options.DataDir      the account, 0700: guards and consensus, kept by Stop
//
// Root writes only into directories that root alone can change, so a tor that
// was taken over cannot turn a write of ours to a file of its choice.
//
// Nothing here opens a path for packets. Whatever goes wrong, the LAN waits.
package tor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/internal/users"
)

// ErrNotRunning says that no tor of ours runs from a state directory.
var ErrNotRunning = errors.New("no tor of ours is running")

// Options describe a managed instance.
type Options struct {
	Dir     string // state of this instance, gone after a reboot
	DataDir string // what tor must not forget: its guards
	Binary  string // path or name of the program; "" for "tor"

	TProxy         bool              // TransPort is handed connections, and listens on loopback only
	Ports          plan.Ports        // Trans and DNS; tor does not know Resolver
	Onion4, Onion6 netip.Prefix      // where names under .onion are mapped
	AllowFrom      []netip.Prefix    // sources that TransPort and DNSPort answer
	Beside         bool              // another one of ours is there, which has what of ExtraTorrc only one can have
	ExtraTorrc     string            // file of the user's own torrc lines; "" for none
	Bridges        []string          // the only ways into the network, as config.ParseBridge reads them; none: its guards
	Transports     map[string]string // programs of pluggable transports, by name; others are looked for
	Cgroup         *os.File          // the folder of the control group that tor is started in; nil for that of the caller

	bridges []directive // what Bridges come to, see withBridges
}

// SocketPath returns the control socket of the instance whose state is in dir.
func SocketPath(dir string) string { return filepath.Join(dir, "run", "control") }

func (o Options) torrcPath() string   { return filepath.Join(o.Dir, "torrc") }
func (o Options) startupPath() string { return filepath.Join(o.Dir, "startup.log") }
func (o Options) runDir() string      { return filepath.Join(o.Dir, "run") }
func (o Options) cookiePath() string  { return filepath.Join(o.Dir, "run", "control.cookie") }

func logPath(dir string) string { return filepath.Join(dir, "run", "notice.log") }

// accounts are the names that distributions give tor's account: Debian,
// then Arch and OpenWrt, Alpine and the BSDs, Fedora.
var accounts = []string{"debian-tor", "tor", "_tor", "toranon"}

// LookupAccount returns the account that the distribution made for tor.
func LookupAccount() (users.Account, error) {
	for _, name := range accounts {
		if u, err := user.Lookup(name); err == nil {
			return accountOf(u)
		}
	}
	return users.Account{}, fmt.Errorf("find an account for tor: none of %s exists; install tor (apt install tor)",
		strings.Join(accounts, ", "))
}

func accountOf(u *user.User) (users.Account, error) {
	a, err := users.Of(u)
	if err == nil && a.UID == 0 {
		err = fmt.Errorf("run tor as %q: that is root; make it an unprivileged account", u.Username)
	}
	return a, err
}

// sbin holds tor on Debian, and is not in every PATH.
var sbin = []string{"/usr/sbin", "/usr/local/sbin", "/usr/bin"}

// Installed says why there is no tor to start, nil where there is one, and which version it is.
func Installed(ctx context.Context, binary string) (version string, err error) {
	account, err := LookupAccount()
	if err != nil {
		return "", err
	}
	path, err := findBinary(binary)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	cmd := command(path, account, "/", "--version", "--quiet")
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Credential = nil // whoever asks has no privilege to give up
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("ask tor for its version: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("ask tor for its version: %w", err)
	}
	return strings.TrimSpace(out.String()), nil
}

// findBinary returns the absolute path of the tor program.
func findBinary(name string) (string, error) {
	if name == "" {
		name = "tor"
	}
	path, err := exec.LookPath(name)
	for i := 0; err != nil && i < len(sbin) && !strings.Contains(name, "/"); i++ {
		path, err = exec.LookPath(filepath.Join(sbin[i], name))
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("find the tor program: there is no program %s; install it (apt install tor) or give its path", name)
	}
	if err != nil {
		return "", fmt.Errorf("find the tor program: %w; install it (apt install tor) or give its path", err)
	}
	return filepath.Abs(path)
}

// socketPathMax is what fits into sockaddr_un with its closing zero.
const socketPathMax = 107

// check refuses what would end up as another configuration than was meant.
func (o Options) check() error {
	if os.Geteuid() != 0 {
		return errors.New("start tor: only root can give it its own account; run as root")
	}
	for _, dir := range []string{o.Dir, o.DataDir} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return fmt.Errorf("use %q for tor's files: the path is not absolute and clean", dir)
		}
		if strings.ContainsFunc(dir, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`"\#`, r) }) {
			return fmt.Errorf("use %q for tor's files: a torrc cannot hold that path as it is", dir)
		}
	}
	if len(SocketPath(o.Dir)) > socketPathMax {
		return fmt.Errorf("use %q for tor's files: the control socket's path is over %d bytes; choose a shorter name",
			o.Dir, socketPathMax)
	}
	if o.Ports.Trans == 0 || o.Ports.DNS == 0 {
		return errors.New("start tor: TransPort and DNSPort need a port other than 0")
	}
	return nil
}
