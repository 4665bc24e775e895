package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/uniseg"
	"golang.org/x/sys/unix"
)

// ErrNoScreen says that a terminal cannot show a screen, but lines.
var ErrNoScreen = errors.New("the terminal has no screen")

// Screen shows all on the terminal of standard input and output until somebody quits, ctx ends,
// or nothing is attached any more. notices are lines of progress that would be in the way there.
func Screen(ctx context.Context, s Source, o Options, notices <-chan string) error {
	first, err := read(s)
	if err != nil {
		return err // before there is a screen
	}
	screen, err := openScreen()
	if err != nil {
		return err
	}
	m := newModel(o)
	m.setReading(first)
	return show(ctx, screen, s, m, notices)
}

// terminal is standard input and output. Whoever shares them, such as the shell, reads them
// without waiting for anything if that is how they are left.
type terminal struct {
	tcell.Tty
	flags int // of open(2), as they were
}

// Stop gives the terminal back as it was.
func (t *terminal) Stop() error {
	err := t.Tty.Stop()
	_, flagsErr := unix.FcntlInt(os.Stdin.Fd(), unix.F_SETFL, t.flags)
	return errors.Join(err, flagsErr)
}

// openScreen takes the terminal.
func openScreen() (tcell.Screen, error) {
	if name := os.Getenv("TERM"); name == "" || name == "dumb" {
		return nil, ErrNoScreen
	}
	flags, err := unix.FcntlInt(os.Stdin.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("ask how the terminal is read: %w", err)
	}
	tty, err := tcell.NewStdIoTty()
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	screen, err := tcell.NewTerminfoScreenFromTty(&terminal{tty, flags})
	if err != nil {
		return nil, fmt.Errorf("%w that is known: TERM is %q: %w", ErrNoScreen, os.Getenv("TERM"), err)
	}
	err = screen.Init()
	if errors.Is(err, tcell.ErrNoCharset) { // of an old locale: all that is shown is ASCII, as a rule
		if err = os.Setenv("LC_ALL", "C"); err == nil {
			err = screen.Init()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	return screen, nil
}

// show runs the screen. However it ends, by a panic too, the terminal is as it was before.
func show(ctx context.Context, screen tcell.Screen, s Source, m *model, notices <-chan string) error {
	defer screen.Fini()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	typed := make(chan tcell.Event)
	go screen.ChannelEvents(typed, ctx.Done())
	f := newFeed(ctx, s)
	f.begin()
	tick := time.NewTicker(m.interval)
	defer tick.Stop()
	for {
		paint(screen, m)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r, err := read(s)
			if err != nil {
				return err
			}
			m.setReading(r)
		case n := <-f.news:
			n(m)
		case line := <-notices:
			m.say(line, false)
		case event, open := <-typed:
			if !open || m.handle(screen, event, f) {
				return nil
			}
		}
	}
}

// handle does what an event of the terminal's means; true ends all of it.
func (m *model) handle(screen tcell.Screen, event tcell.Event, f *feed) bool {
	switch e := event.(type) {
	case *tcell.EventResize:
		screen.Sync()
	case *tcell.EventKey:
		k, ok := keyOf(e)
		if !ok {
			return false
		}
		done := m.press(k)
		switch {
		case done.quit:
			return true
		case done.redraw:
			screen.Sync()
		case done.suspend:
			if err := suspend(screen); err != nil {
				m.say(err.Error(), true)
			}
		case done.change != nil:
			f.change(*done.change)
		}
	case *tcell.EventError:
		return true // the terminal is gone
	}
	return false
}

// suspend gives the terminal back until this process goes on.
func suspend(screen tcell.Screen) error {
	if err := screen.Suspend(); err != nil {
		return fmt.Errorf("give the terminal back: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stopErr := unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGTSTP) // to this thread: it stops before it goes on
	return errors.Join(stopErr, screen.Resume())
}

// keyNames are keys without a character, as the terminal's library has them.
var keyNames = map[tcell.Key]key{
	tcell.KeyUp: keyUp, tcell.KeyDown: keyDown, tcell.KeyPgUp: keyPageUp, tcell.KeyPgDn: keyPageDown, tcell.KeyHome: keyHome, tcell.KeyEnd: keyEnd,
	tcell.KeyEnter: keyEnter, tcell.KeyEscape: keyEscape, tcell.KeyBackspace: keyBackspace, tcell.KeyBackspace2: keyBackspace,
	tcell.KeyCtrlC: keyInterrupt, tcell.KeyCtrlZ: keySuspend, tcell.KeyCtrlL: keyRedraw,
}

func keyOf(e *tcell.EventKey) (key, bool) {
	if e.Key() == tcell.KeyRune {
		return key(e.Rune()), true
	}
	k, ok := keyNames[e.Key()]
	return k, ok
}

// looks are the styles. Without colours bold and reversed are left, which tell all that matters.
var looks = map[style]tcell.Style{
	plain:  tcell.StyleDefault,
	strong: tcell.StyleDefault.Bold(true),
	faint:  tcell.StyleDefault.Dim(true),
	chosen: tcell.StyleDefault.Reverse(true),
	opened: tcell.StyleDefault.Foreground(tcell.ColorOlive),
	bad:    tcell.StyleDefault.Foreground(tcell.ColorMaroon),
}

// paint draws a frame; the screen sends what has changed of it.
func paint(screen tcell.Screen, m *model) {
	columns, height := screen.Size()
	screen.Clear()
	for y, l := range m.frame(columns, height) {
		x := 0
		for _, s := range l {
			for text := s.text; text != ""; {
				cluster, rest, w, _ := uniseg.FirstGraphemeClusterInString(text, -1)
				runes := []rune(cluster)
				screen.SetContent(x, y, runes[0], runes[1:], looks[s.style])
				x, text = x+w, rest
			}
		}
	}
	screen.Show()
}

// plainColumns is how wide lines are where there is no screen, and nobody says.
const plainColumns = 80

// text is a frame as lines without any looks.
func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text() + "\n")
	}
	return b.String()
}
