package tor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cretz/bine/control"
)

// Bounds of one command. tor answers from memory, but its only thread may be
// busy for seconds with a consensus on a small router.
const (
	commandTimeout = 10 * time.Second
	replyMax       = 4 << 20 // bytes; a mad tor must not fill our memory
	linesMax       = 1 << 16 // a short line takes many times its length
)

var errReplyTooLong = errors.New("the reply is longer than any of tor's")

// Control is an authenticated control connection. Commands may come from
// several goroutines. Each ends within ten seconds, or when its context ends;
// after a command that got no reply the connection is useless, since a late
// reply would be taken for that of the next.
type Control struct {
	address string
	wire    *wire
	text    *textproto.Conn
	bine    *control.Conn // reads and writes text

	mu     sync.Mutex
	broken error
}

// wire bounds what is read for one command.
type wire struct {
	net.Conn
	left, lines int // bytes and line ends that may yet come
}

func (w *wire) Read(p []byte) (int, error) {
	if w.left <= 0 || w.lines <= 0 {
		return 0, errReplyTooLong
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	w.lines -= bytes.Count(p[:n], []byte("\n"))
	return n, err
}

// Dial connects to a control port and authenticates by cookie, or not at all
// where tor demands nothing. The address is the path of a socket, also written
// unix:/path, or host:port.
func Dial(ctx context.Context, address string) (*Control, error) {
	network, target, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: commandTimeout}
	conn, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		return nil, fmt.Errorf("connect to tor's control port: %w", err)
	}
	c := newControl(address, conn)
	s, err := identify(conn, target)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("talk to tor at %s: %w", address, err), c.Close())
	}
	if err := c.authenticate(ctx, s); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newControl(address string, conn net.Conn) *Control {
	w := &wire{Conn: conn}
	text := textproto.NewConn(w)
	return &Control{address: address, wire: w, text: text, bine: control.NewConn(text)}
}

// splitAddress returns what net.Dial takes.
func splitAddress(address string) (network, target string, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok || strings.HasPrefix(address, "/") {
		return "unix", path, nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return "", "", fmt.Errorf("connect to tor's control port: %q is neither the path of a socket nor host:port", address)
	}
	return "tcp", address, nil
}

// bounded runs an exchange under a deadline, reads at most room bytes for it
// and gives the connection up if it does not end in a reply.
func (c *Control) bounded(ctx context.Context, room int, exchange func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.wire.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return err
	}
	c.wire.left, c.wire.lines = room, linesMax
	// If ctx ends early, a deadline in the past wakes the exchange.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.wire.SetDeadline(time.Unix(1, 0))
		close(woken)
	})
	err := exchange()
	if !stop() {
		<-woken // or it would cut the next command short
	}
	var reply *textproto.Error
	if err == nil || errors.As(err, &reply) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no reply within %v; it hangs: %w", commandTimeout, err)
	}
	c.broken = fmt.Errorf("talk to tor at %s: %w", c.address, err)
	return c.broken
}

// command sends one line. A line break in it would be a second command.
func (c *Control) command(ctx context.Context, line string) (*control.Response, error) {
	if strings.ContainsAny(line, "\r\n") {
		return nil, fmt.Errorf("ask tor: a line break in %q", line)
	}
	var resp *control.Response
	err := c.bounded(ctx, replyMax, func() (err error) {
		resp, err = c.bine.SendRequest("%s", line)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask tor %q: %w", line, err)
	}
	return resp, nil
}

// GetInfo returns one value as tor writes it, quotes and escapes included.
func (c *Control) GetInfo(ctx context.Context, key string) (string, error) {
	resp, err := c.command(ctx, "GETINFO "+key)
	if err != nil {
		return "", err
	}
	for _, line := range resp.Data {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimPrefix(value, "\r\n"), nil
		}
	}
	return "", fmt.Errorf("ask tor for %s: the reply %q has no such value", key, resp.RawLines)
}

// GetConf returns the values of an option in their order; none if tor works
// by its default.
func (c *Control) GetConf(ctx context.Context, option string) ([]string, error) {
	resp, err := c.command(ctx, "GETCONF "+option)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, line := range resp.DataWithReply() {
		key, value, set := strings.Cut(line, "=")
		if !strings.EqualFold(key, option) {
			return nil, fmt.Errorf("ask tor for option %s: the reply is %q", option, line)
		}
		if set {
			out = append(out, value)
		}
	}
	return out, nil
}

// Version returns tor's version, such as "0.4.9.11".
func (c *Control) Version(ctx context.Context) (string, error) {
	version, err := c.GetInfo(ctx, "version")
	return printable(version), err
}

// loadConf replaces the whole configuration, or nothing of it.
func (c *Control) loadConf(ctx context.Context, torrc string) error {
	// A line that begins with a dot would end the text.
	text := strings.ReplaceAll("\n"+strings.TrimSuffix(torrc, "\n"), "\n.", "\n..")[1:]
	return c.bounded(ctx, replyMax, func() error { return c.bine.LoadConf(text) })
}

// Close hangs up, without the farewell that a hung tor would not answer.
func (c *Control) Close() error { return c.wire.Close() }
