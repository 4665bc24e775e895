package tor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/torbpf/torbpf/internal/users"
)

// verifyTimeout bounds tor --verify-config, which takes some milliseconds.
const verifyTimeout = 20 * time.Second

// command is a tor under the account. The environment is ours, not the
// caller's: with a NOTIFY_SOCKET of systemd's tor would speak for torbpf.
func command(binary string, acct users.Account, dataDir string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dataDir}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: acct.UID, Gid: acct.GID},
	}
	return cmd
}

// torArgs select a torrc and keep tor away from those in /etc.
func torArgs(torrc string, more ...string) []string {
	return append([]string{"-f", torrc, "--defaults-torrc", "/dev/null"}, more...)
}

// prepare writes the torrc beside the one in use, as "torrc.next", and has tor
// judge it. The error names the user's line if it is that which tor refuses.
func (o Options) prepare(ctx context.Context, binary string, acct users.Account) (text string, err error) {
	o, extra, err := o.complete()
	if err != nil {
		return "", err
	}
	v6 := o.hasIPv6() // else tor would not start over a listener on [::]
	text = o.torrc(extra, v6)
	complaint, err := o.verify(ctx, binary, acct, text)
	if err != nil || complaint == "" {
		return text, err
	}
	if extra == nil {
		return "", fmt.Errorf("check tor's configuration: tor says: %s", complaint)
	}
	return "", o.blame(ctx, binary, acct, extra, v6, complaint)
}

// blame finds the user's line behind a complaint of tor's, which never gives
// one: the last of the shortest beginning of their file about which tor says
// the same.
func (o Options) blame(ctx context.Context, binary string, acct users.Account, extra *extraFile, v6 bool, complaint string) error {
	var failed error
	n := sort.Search(len(extra.lines), func(n int) bool {
		part := &extraFile{path: extra.path, lines: extra.lines[:n]}
		says, err := o.verify(ctx, binary, acct, o.torrc(part, v6))
		failed = errors.Join(failed, err)
		return says == complaint
	})
	if failed != nil {
		return failed
	}
	if n == 0 {
		return fmt.Errorf("check tor's configuration: tor says: %s", complaint)
	}
	l := extra.lines[n-1]
	first, _, _ := strings.Cut(l.text, "\n")
	return fmt.Errorf("%s:%d: tor refuses %q: %s", extra.path, l.number, strings.TrimSpace(first), complaint)
}

func (o Options) nextPath() string { return o.torrcPath() + ".next" }

// verify returns what tor objects to in a torrc, "" if it accepts it.
func (o Options) verify(ctx context.Context, binary string, acct users.Account, text string) (complaint string, err error) {
	if err := writeFile(o.nextPath(), []byte(text), 0o640, acct.GID); err != nil {
		return "", fmt.Errorf("write tor's configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	cmd := command(binary, acct, o.DataDir, torArgs(o.nextPath(), "--verify-config")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run tor to check its configuration: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !stop() {
		return "", fmt.Errorf("check tor's configuration: %w", context.Cause(ctx))
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", fmt.Errorf("run tor to check its configuration: %w", err)
	}
	if complaint := reason(out.String()); complaint != "" {
		return complaint, nil
	}
	return "", fmt.Errorf("run tor to check its configuration: %w: %s", err, lastLine(out.String()))
}

// adopt makes the prepared torrc the one that tor reads when it reloads.
func (o Options) adopt() error {
	if err := os.Rename(o.nextPath(), o.torrcPath()); err != nil {
		return fmt.Errorf("write tor's configuration: %w", err)
	}
	return nil
}

// noise are warnings that come with every start of ours.
var noise = []string{
	"You specified a public address", // the wildcard; SocksPolicy keeps others out
	"Reading config failed--see warnings above",
	"Tor is currently configured as a relay and a hidden service",
	"Error setting IP_TRANSPARENT flag", // which torbpf sets, since tor has no privilege to
}

// warnings returns the texts of tor's warnings and errors, in order. A line
// reads "Nov 22 16:47:25.247 [warn] text".
func warnings(log string) []string {
	var out []string
next:
	for line := range strings.Lines(log) {
		_, text, found := strings.Cut(line, "[warn] ")
		if !found {
			if _, text, found = strings.Cut(line, "[err] "); !found {
				continue
			}
		}
		text = strings.TrimSpace(text)
		for _, n := range noise {
			if strings.HasPrefix(text, n) {
				continue next
			}
		}
		if len(out) == 0 || out[len(out)-1] != text {
			out = append(out, text)
		}
	}
	return out
}

// reason returns why tor gave up, in its own words: the last two warnings,
// because the last is often "Invalid SocksPort configuration" and the one
// before says what is invalid.
func reason(log string) string {
	w := warnings(log)
	for i := range w {
		w[i] = strings.TrimPrefix(w[i], "Failed to parse/validate config: ")
	}
	return strings.Join(w[max(0, len(w)-2):], "; ")
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
