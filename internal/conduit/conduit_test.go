package conduit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openFiles is how many descriptors this process has.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	return len(fds)
}

// ends are both ends of a conduit, each in the hands of its user.
func ends(t *testing.T) (*Conduit, *Dialer) {
	t.Helper()
	conduit, theirs, err := New()
	must(t, err)
	t.Cleanup(func() { conduit.Close() })
	dialer, err := NewDialer(theirs)
	must(t, err)
	t.Cleanup(func() { dialer.conn.Close() })
	return conduit, dialer
}

func TestHTTPThroughAConduit(t *testing.T) {
	before := openFiles(t)
	conduit, dialer := ends(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // whole: HTTP/1 does not answer while it reads
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(conduit) }()
	transport := &http.Transport{DialContext: dialer.Dial}
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			answer, err := client.Post("http://api/", "text/plain", io.LimitReader(zeros{}, 100_000))
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			if got, err := io.Copy(io.Discard, answer.Body); err != nil || got != 100_000 {
				t.Errorf("%d bytes came back: %v", got, err)
			}
		})
	}
	all.Wait()
	transport.CloseIdleConnections()
	must(t, server.Close())
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	dialer.Wait() // which ends, since the other end has gone
	if _, err := dialer.Dial(context.Background(), "", ""); err == nil {
		t.Error("a connection was opened to nobody")
	}
	dialer.conn.Close()
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors were open before, and %d are now", before, after)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestAConduitTakesNothing: descriptors that come through are not this process's, and end nothing.
func TestAConduitTakesNothing(t *testing.T) {
	conduit, dialer := ends(t)
	file, err := os.Open("/dev/null")
	must(t, err)
	before := openFiles(t)
	const sent = 3
	for range sent { // each asks for a connection as well
		_, _, err := dialer.conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(file.Fd()), int(file.Fd())), nil)
		must(t, err)
	}
	for range sent {
		theirs, err := conduit.Accept()
		must(t, err)
		must(t, unix.Close(<-dialer.answers))
		must(t, theirs.Close())
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors were open before, and %d are now", before, after)
	}
	must(t, file.Close())
	must(t, dialer.conn.Close())
	if c, err := conduit.Accept(); err == nil {
		t.Errorf("it accepted %v of nobody", c)
	}
}

// TestNobodyHangsWhoCloses: who has the other end makes it block, and the flag is not that of ours.
func TestNobodyHangsWhoCloses(t *testing.T) {
	conduit, dialer := ends(t)
	accepted := make(chan net.Conn)
	go func() {
		c, err := conduit.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	theirs, err := dialer.Dial(t.Context(), "", "")
	must(t, err)
	defer theirs.Close()
	ours := <-accepted
	raw, err := theirs.(*net.UnixConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { must(t, unix.SetNonblock(int(fd), false)) }))
	flags := 0
	raw, err = ours.(*net.UnixConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) }))
	must(t, err)
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("a read of ours would wait for whom it is not to trust")
	}
	must(t, ours.Close())
}
