package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// terminal is a pseudo terminal with a program on it, and what that has drawn.
type terminal struct {
	cmd            *exec.Cmd
	master, slave  *os.File
	before         unix.Termios
	flags          int // of open(2)
	columns, lines int

	mu     sync.Mutex
	raw    []byte
	cells  [][]rune
	x, y   int
	rest   string // the beginning of an escape sequence
	modes  map[string]bool
	drawn  chan struct{}
	exited chan error
}

// openTerminal starts torbpf in a terminal of 80x24.
func openTerminal(t *testing.T, lab *testnet.Lab, env []string, args ...string) *terminal {
	t.Helper()
	return openTerminalWith(t, lab, env, append([]string{program}, args...)...)
}

// openTerminalWith starts any program there.
func openTerminalWith(t *testing.T, lab *testnet.Lab, env []string, line ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{master: master, slave: slave, modes: make(map[string]bool), drawn: make(chan struct{}, 1), exited: make(chan error, 1)}
	term.resize(t, 80, 24)
	state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	term.before = *state
	ctx, cancel := context.WithCancel(context.Background())
	term.cmd = lab.Router.Command(ctx, line[0], line[1:]...)
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.Env = append(os.Environ(), append([]string{"TERM=xterm-256color", "LC_ALL=C.UTF-8"}, env...)...)
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if term.flags, err = unix.FcntlInt(slave.Fd(), unix.F_GETFL, 0); err != nil {
		t.Fatal(err)
	}
	go term.read()
	go func() { term.exited <- term.cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		slave.Close()
		master.Close()
	})
	return term
}

// resize makes the window another size, of which the program is told by the kernel.
func (term *terminal) resize(t *testing.T, columns, lines int) {
	t.Helper()
	term.mu.Lock()
	term.columns, term.lines = columns, lines
	term.clear()
	term.mu.Unlock()
	size := &unix.Winsize{Col: uint16(columns), Row: uint16(lines)}
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
}

func (term *terminal) clear() {
	term.cells = make([][]rune, term.lines)
	for y := range term.cells {
		term.cells[y] = []rune(strings.Repeat(" ", term.columns))
	}
}

func (term *terminal) read() {
	buffer := make([]byte, 4096)
	for {
		n, err := term.master.Read(buffer)
		term.mu.Lock()
		term.raw = append(term.raw, buffer[:n]...)
		term.rest = term.draw(term.rest + string(buffer[:n]))
		term.mu.Unlock()
		select {
		case term.drawn <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// sequence is one of those that move, erase or switch; other is what has no effect here.
var (
	sequence = regexp.MustCompile(`^\x1b\[([?<>=]?)([0-9;:]*)[ !$]?([@-~])`)
	other    = regexp.MustCompile(`^\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78cDEHMN])`)
)

// draw takes in what was written, and returns what is not complete.
func (term *terminal) draw(text string) string {
	for text != "" {
		switch m := sequence.FindStringSubmatch(text); {
		case m != nil:
			term.control(m[1], m[2], m[3])
			text = text[len(m[0]):]
			continue
		case text[0] == 0x1b:
			o := other.FindString(text)
			if o == "" {
				return text
			}
			text = text[len(o):]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\r':
			term.x = 0
		case r == '\n':
			term.y = min(term.y+1, term.lines-1)
		case r >= ' ' && term.y < term.lines && term.x < term.columns:
			term.cells[term.y][term.x] = r
			term.x++
		}
	}
	return ""
}

func (term *terminal) control(private, arguments, final string) {
	var n [2]int
	for i, a := range strings.SplitN(arguments, ";", 2) {
		n[i], _ = strconv.Atoi(a) // empty is the default
	}
	switch {
	case private == "?" && (final == "h" || final == "l"):
		for _, mode := range strings.Split(arguments, ";") {
			term.modes[mode] = final == "h"
		}
	case private != "":
	case final == "H":
		term.y, term.x = max(n[0], 1)-1, max(n[1], 1)-1
	case final == "J":
		term.clear()
	case final == "K":
		for x := term.x; term.y < term.lines && x < term.columns; x++ {
			term.cells[term.y][x] = ' '
		}
	}
}

// screen is what is to be seen.
func (term *terminal) screen() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	var out []string
	for _, l := range term.cells {
		out = append(out, strings.TrimRight(string(l), " "))
	}
	return strings.Join(out, "\n")
}

// written is all that was.
func (term *terminal) written() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return string(term.raw)
}

// awaits waits until the screen is as it ought to be.
func (term *terminal) awaits(t *testing.T, what string, is func(screen string) bool) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		screen := term.screen()
		if is(screen) {
			return screen
		}
		select {
		case <-term.drawn:
		case <-deadline:
			t.Fatalf("it does not show %s but\n%s\n%q", what, screen, term.written())
		}
	}
}

func (term *terminal) shows(t *testing.T, text string) string {
	t.Helper()
	return term.awaits(t, text, func(screen string) bool { return strings.Contains(screen, text) })
}

func (term *terminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(term.master, keys); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the end, and wants the terminal as it was before.
func (term *terminal) ends(t *testing.T, code int) {
	t.Helper()
	select {
	case <-term.exited:
	case <-time.After(patience):
		t.Fatalf("it does not end; it shows\n%s", term.screen())
	}
	if got := term.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("it ended with %v, want %d: %q", term.cmd.ProcessState, code, term.written())
	}
	term.checkSettings(t)
	eventually(t, patience, "the screen of before", func() error {
		term.mu.Lock()
		defer term.mu.Unlock()
		if term.modes["1049"] || !term.modes["25"] { // the other screen, and whether the cursor is to be seen
			return fmt.Errorf("modes %v: %q", term.modes, term.raw)
		}
		return nil
	})
}

// checkSettings wants the terminal to be read as before.
func (term *terminal) checkSettings(t *testing.T) {
	t.Helper()
	now, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
	if err != nil || *now != term.before {
		t.Errorf("the terminal's settings are %+v, and were %+v: %v", now, term.before, err)
	}
	if flags, err := unix.FcntlInt(term.slave.Fd(), unix.F_GETFL, 0); err != nil || flags != term.flags {
		t.Errorf("it is open with %#x, and was with %#x: %v", flags, term.flags, err)
	}
}
