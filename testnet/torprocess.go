package testnet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// torProcess is one tor in the internet namespace.
type torProcess struct {
	name    string
	dir     string // its data directory
	logPath string
	cmd     *exec.Cmd
	output  *bytes.Buffer // what it printed before it opened its log; read after done
	done    chan struct{}
	err     error // of Wait; read after done
}

func (l *Lab) startTorProcess(name string) (*torProcess, error) {
	p := &torProcess{
		name:    name,
		dir:     l.torDir(name),
		logPath: filepath.Join(l.dir, name+".log"),
		output:  &bytes.Buffer{},
		done:    make(chan struct{}),
	}
	// --defaults-torrc keeps the distribution's settings (user, log) away.
	p.cmd = l.Internet.Command(context.Background(), "tor", "--hush",
		"--defaults-torrc", os.DevNull, "-f", filepath.Join(l.dir, name+".torrc"))
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start tor %s: %w", name, err)
	}
	go func() {
		p.err = cmp.Or(p.cmd.Wait(), errors.New("exit status 0"))
		close(p.done)
	}()
	l.closeLater(p)
	return p, nil
}

// exited returns an error when the process has ended.
func (p *torProcess) exited() error {
	select {
	case <-p.done:
		return fmt.Errorf("tor %s ended: %w: %s", p.name, p.err, p.output)
	default:
		return nil
	}
}

func (p *torProcess) hangup() error {
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		return fmt.Errorf("signal tor %s: %w", p.name, err)
	}
	return nil
}

// Close does not ask first: a relay would take its time to say goodbye.
func (p *torProcess) Close() error {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
	return nil
}

// logTails is the end of every tor's log, to explain a failed start.
func (t *TorNet) logTails() string {
	processes := []*torProcess{t.onion}
	for _, r := range t.relays {
		processes = append(processes, r.tor)
	}
	var b strings.Builder
	for _, p := range processes {
		if p == nil {
			continue
		}
		text, _ := os.ReadFile(p.logPath)
		fmt.Fprintf(&b, "\n--- %s\n%s", p.name, lastLines(string(text), 8))
	}
	return b.String()
}

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
