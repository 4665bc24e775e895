package cell

import (
	"context"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that one sends to a program through us. All others do to us
// what they do: a stop stops us and, since we share its process group, the program.
var forwarded = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// attended leaves out what our caller has us ignore (nohup): so shall the program.
func attended(signals []os.Signal) []os.Signal {
	return slices.DeleteFunc(slices.Clone(signals), signal.Ignored)
}

// notifyContext ends a context with any signal that would end us.
func notifyContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, attended(forwarded)...)
}

// signals are those received and not yet sent on.
type signals chan os.Signal

// receiveSignals collects what is sent to us from now on, until stop.
func receiveSignals() signals {
	received := make(signals, 16)
	signal.Notify(received, attended(forwarded)...)
	return received
}

// forward sends them on to a process.
func (received signals) forward(to *os.Process) {
	for s := range received {
		if !typed(s) {
			_ = to.Signal(s) // it has ended, at worst
		}
	}
}

func (received signals) stop() {
	signal.Stop(received)
	close(received)
}

// typed tells whether a signal comes from keys of our terminal, which have sent it to the
// whole process group in front, the program in it. Twice is more than once: many programs
// ask before they obey the first ^C.
func typed(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT {
		return false
	}
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false // we have none
	}
	defer terminal.Close()
	front, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && front == unix.Getpgrp()
}
