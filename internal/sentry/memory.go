package sentry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/torbpf/torbpf/internal/circuits"
)

// Listener hears of what goes by a tor.
type Listener interface {
	io.Closer
	// Memory is what it knows, of all that tor did before it was asked.
	Memory(ctx context.Context) (circuits.Memory, error)
	// Done is closed when tor is not to be heard any more.
	Done() <-chan struct{}
}

// Follow begins to listen to the tor at a control address.
type Follow func(ctx context.Context, control string, before circuits.Memory) (Listener, error)

// Question asks a sentry which circuits were used from where.
type Question struct {
	// Addrs are addresses of devices. What the sentry itself has asked of tor for one of them,
	// from an address of 127/8, is the device's.
	Addrs []netip.Addr `json:"addrs"`
}

// memories are those of all tors. Without a way to listen they know nothing.
type memories struct {
	tors   []TorConfig
	follow Follow
	alias  func(instance int, device netip.Addr) netip.Addr // whence the sentry asks for a device
	log    *slog.Logger
	each   time.Duration // how often what is over is forgotten

	mu        sync.Mutex
	listeners []Listener // by instance; nil for one that is not to be heard
}

func newMemories(tors []TorConfig, follow Follow, alias func(int, netip.Addr) netip.Addr, log *slog.Logger) *memories {
	return &memories{tors: tors, follow: follow, alias: alias, log: log, each: forgetEach, listeners: make([]Listener, len(tors))}
}

// forgetEach bounds what is remembered by how many circuits tor builds meanwhile.
const forgetEach = time.Minute

// listenPause is between two attempts to listen to a tor.
const listenPause = 500 * time.Millisecond

// keep listens to one of the tors until ctx ends.
func (m *memories) keep(ctx context.Context, instance int) {
	before, said := m.tors[instance].Before, ""
	for ctx.Err() == nil {
		l, err := m.listen(ctx, instance, before)
		switch {
		case err == nil:
			said, before = "", circuits.Memory{} // what was known is in the listener
			m.set(instance, l)
			m.hear(ctx, l)
			m.set(instance, nil)
			_ = l.Close() // it has ended, or we do
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			m.log.Warn("circuits of devices are not known", "tor", instance, "cause", err)
		}
		if !pause(ctx, listenPause) {
			return
		}
	}
}

// hear waits for the end of a listener, or of ctx, and has circuits forgotten that are over.
func (m *memories) hear(ctx context.Context, l Listener) {
	ticker := time.NewTicker(m.each)
	defer ticker.Stop()
	for {
		select {
		case <-l.Done():
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
			asked, cancel := context.WithTimeout(ctx, answerPatience)
			_, _ = l.Memory(asked) // a tor that does not answer builds none either
			cancel()
		}
	}
}

func (m *memories) listen(ctx context.Context, instance int, before circuits.Memory) (Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	return m.follow(ctx, m.tors[instance].Control, before)
}

func (m *memories) set(instance int, l Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners[instance] = l
}

// answerPatience bounds how long one question may take, or a tor that hangs.
const answerPatience = 5 * time.Second

// serve answers who holds the name of the socket, which is root, until ctx ends.
func (m *memories) serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("take questions about circuits: %w", err)
		}
		m.answer(ctx, conn)
	}
}

// answer answers one question; one that is not understood gets nothing.
func (m *memories) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(2*answerPatience)) != nil {
		return
	}
	var q Question
	if err := json.NewDecoder(conn).Decode(&q); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	out := make([]circuits.Memory, len(m.tors))
	for i := range out {
		out[i] = m.of(ctx, i, q.Addrs)
	}
	_ = json.NewEncoder(conn).Encode(out) // who asked may be gone
}

// of is what is known of one tor; nothing of one that is not to be heard.
func (m *memories) of(ctx context.Context, instance int, addrs []netip.Addr) circuits.Memory {
	m.mu.Lock()
	l := m.listeners[instance]
	m.mu.Unlock()
	if l == nil {
		return circuits.Memory{}
	}
	memory, err := l.Memory(ctx)
	if err != nil {
		return circuits.Memory{}
	}
	whose := make(map[netip.Addr]netip.Addr)
	for _, addr := range addrs {
		whose[m.alias(instance, addr)] = addr
	}
	for i, u := range memory.Uses {
		if addr, ours := whose[u.Addr]; ours {
			memory.Uses[i].Addr = addr
		}
	}
	return memory
}

// Recall asks a sentry, by the socket that it was given. It returns a memory of each tor.
func Recall(ctx context.Context, socket string, q Question) ([]circuits.Memory, error) {
	dialer := net.Dialer{Timeout: answerPatience}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ask the sentry for circuits: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * answerPatience)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return nil, fmt.Errorf("ask the sentry for circuits: %w", err)
	}
	var out []circuits.Memory
	if err := json.NewDecoder(io.LimitReader(conn, memoryMax)).Decode(&out); err != nil {
		return nil, fmt.Errorf("read the sentry's circuits: %w", err)
	}
	return out, nil
}

// memoryMax is more than all circuits of all tors take, in bytes.
const memoryMax = 16 << 20

// openMemory takes over the socket that a sentry was given to answer by; nil where it has none.
func openMemory(cfg Config, follow Follow) (net.Listener, error) {
	if cfg.MemoryFD == 0 || follow == nil {
		return nil, nil
	}
	file := os.NewFile(uintptr(cfg.MemoryFD), "circuits")
	defer file.Close() // FileListener duplicates it
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("use the socket for circuits: %w", err)
	}
	return l, nil
}
