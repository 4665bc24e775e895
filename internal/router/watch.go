package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/loader"
)

// The ring buffer of sampled refusals has one reader. That is `torbpf run`, which passes
// all of it on to whoever watches, by a socket that root alone may open. Where it does
// not run, one watcher reads for itself, and makes room when it comes.
//
//	ring buffer ─▶ torbpf run ─▶ refusals.sock ─▶ explain --watch, any number
//	ring buffer ─▶ explain --watch                (refusals.lock: one)

// Refused is a packet that was refused, or stopped by a guard.
type Refused struct {
	Time      time.Time      `json:"time"`
	Interface string         `json:"interface"`
	Reason    string         `json:"reason"`
	Meaning   string         `json:"meaning"`
	Protocol  uint8          `json:"protocol"`
	Src       netip.AddrPort `json:"src"` // port 0 where the protocol has none
	Dst       netip.AddrPort `json:"dst"`
	Length    int            `json:"length"`
}

func refused(f loader.Refusal) Refused {
	out := Refused{
		Time: f.Time, Reason: f.Reason.String(), Meaning: f.Reason.Explain(), Protocol: f.Protocol,
		Src: f.Src, Dst: f.Dst, Length: f.Length,
	}
	if link, err := net.InterfaceByIndex(f.Ifindex); err == nil {
		out.Interface = link.Name
	}
	return out
}

func (r *Router) audiencePath() string { return filepath.Join(r.dir, "refusals.sock") }

// watchPoll is how often a watcher that reads looks whether `torbpf run` wants to, and
// that one whether it may.
const watchPoll = 100 * time.Millisecond

// watcherPatience is how long one watcher that does not read may keep the others waiting,
// once: then it has to go.
const watcherPatience = 20 * time.Millisecond

// audience is who watches.
type audience struct {
	listener net.Listener
	mu       sync.Mutex
	watchers []net.Conn
	closed   bool
}

// openAudience begins to listen for watchers; nil, which tells nobody, where it cannot.
func (r *Router) openAudience() (*audience, error) {
	l, err := listenForRoot(r.audiencePath())
	if err != nil {
		return nil, fmt.Errorf("listen for who watches refusals: %w", err)
	}
	a := &audience{listener: l}
	go a.accept()
	return a, nil
}

func (a *audience) accept() {
	for {
		c, err := a.listener.Accept()
		if err != nil {
			return // closed
		}
		a.mu.Lock()
		if a.closed {
			c.Close()
		} else {
			a.watchers = append(a.watchers, c)
		}
		a.mu.Unlock()
	}
}

// tell passes a refusal on to all who watch.
func (a *audience) tell(f loader.Refusal) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.watchers) == 0 {
		return
	}
	line, err := json.Marshal(refused(f))
	if err != nil {
		return // all of it can be encoded
	}
	line = append(line, '\n')
	a.watchers = slices.DeleteFunc(a.watchers, func(c net.Conn) bool {
		err := c.SetWriteDeadline(time.Now().Add(watcherPatience))
		if err == nil {
			_, err = c.Write(line)
		}
		if err != nil {
			c.Close()
		}
		return err != nil
	})
}

func (a *audience) close() {
	if a == nil {
		return
	}
	a.listener.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, c := range a.watchers {
		c.Close()
	}
}

// lockRefusals makes this process the one that reads the ring buffer, if nobody is.
func (r *Router) lockRefusals() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "refusals.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// awaitRefusals is lockRefusals once those who watch have made room; nil where there can
// be no lock, or ctx has ended.
func (r *Router) awaitRefusals(ctx context.Context) *os.File {
	for polls := 0; ctx.Err() == nil; polls++ {
		f, err := r.lockRefusals()
		if !errors.Is(err, ErrBusy) {
			return f
		}
		if polls == int(2*time.Second/watchPoll) {
			r.notify("warning: alarms are counted, but not read: `torbpf explain --watch` was stopped while it reads refusals")
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPoll):
		}
	}
	return nil
}

// WatchRefusals tells of each packet of a device, or from an address, that is refused from now on, until ctx
// ends. They are sampled: at most a hundred a second.
func (r *Router) WatchRefusals(ctx context.Context, who string, told func(Refused)) error {
	s, err := r.attached()
	if err != nil {
		return err
	}
	from := watched{who: who, read: time.Now()}
	if from.sender, err = s.sender(who); err != nil {
		return err
	}
	r.notify(r.watching(s, from))
	return r.followRefusals(ctx, func(f Refused) {
		if from.has(f.Src.Addr(), r.attached) {
			told(f)
		}
	})
}

// followRefusals tells of each packet that is refused from now on, whoever reads the ring
// buffer, until ctx ends or nothing is attached any more.
func (r *Router) followRefusals(ctx context.Context, told func(Refused)) error {
	begin, busy := time.Now(), 0
	fresh := func(f Refused) {
		if !f.Time.Before(begin) { // older ones may lie there unread
			told(f)
		}
	}
	for ctx.Err() == nil {
		if _, err := r.attached(); err != nil {
			return err
		}
		heard, err := r.hearRefusals(ctx, fresh)
		if err == nil && !heard {
			err = r.readRefusals(ctx, fresh)
		}
		switch {
		case errors.Is(err, ErrBusy) && busy < 2*int(time.Second/watchPoll): // while `torbpf run` begins or ends
			busy++
		case errors.Is(err, ErrBusy):
			return errors.New("somebody else watches already, and `torbpf run`, by which several could, does not run")
		case err != nil:
			return err
		default:
			busy = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPoll):
		}
	}
	return nil
}

// hearRefusals listens to `torbpf run`; false: it does not run.
func (r *Router) hearRefusals(ctx context.Context, told func(Refused)) (bool, error) {
	c, err := net.Dial("unix", r.audiencePath())
	if err != nil {
		return false, nil
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		var f Refused
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return true, fmt.Errorf("read what `torbpf run` tells: %w", err)
		}
		told(f)
	}
	return true, nil // it ended, or we did
}

// readRefusals reads the ring buffer until `torbpf run` wants to.
func (r *Router) readRefusals(ctx context.Context, told func(Refused)) error {
	lock, err := r.lockRefusals()
	if err != nil {
		return ignoreMissing(err)
	}
	defer lock.Close()
	d, err := r.datapath(false)
	if err != nil {
		return err
	}
	reader, err := d.Refusals()
	if err != nil {
		return ignoreMissing(err)
	}
	defer reader.Close()
	for ctx.Err() == nil && reader.Current() && !r.isServed() {
		for end := time.Now().Add(watchPoll); ctx.Err() == nil && time.Now().Before(end); {
			f, ok, err := reader.Next(time.Until(end))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			told(refused(f))
			r.keepIfAlarm(f, func(Alarm) {})
		}
	}
	return nil
}

// isServed tells whether `torbpf run` is there for those who watch.
func (r *Router) isServed() bool {
	c, err := net.Dial("unix", r.audiencePath())
	if err == nil {
		c.Close()
	}
	return err == nil
}

// ignoreMissing takes what is not there, since nothing is attached any more, for no error.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
