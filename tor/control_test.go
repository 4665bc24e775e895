package tor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeTor serves a control socket by a script: what to answer to each command,
// by its first word. A command without an entry gets no answer, ever. A reply
// that ends in "EOF" is followed by a hang-up.
func fakeTor(t *testing.T, replies map[string]string) (address string) {
	t.Helper()
	return listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, line string) bool {
		name, _, _ := strings.Cut(line, " ")
		reply, cut := strings.CutSuffix(replies[name], "EOF")
		_, err := io.WriteString(conn, reply)
		return err == nil && !cut
	})
}

// shortDir is a directory whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// listenFake serves a control port, a socket or one of TCP. answer takes each
// line of a client and says whether to go on.
func listenFake(t *testing.T, address string, answer func(conn io.Writer, line string) bool) string {
	t.Helper()
	network, target, err := splitAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen(network, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan() && answer(conn, in.Text()); {
				}
			}()
		}
	}()
	return listener.Addr().String()
}

const (
	infoNull     = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n"
	infoPassword = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=HASHEDPASSWORD\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n"
	infoCookie   = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"/nonexistent/cookie\"\r\n250 OK\r\n"
	ok           = "250 OK\r\n"
)

// soon is longer than an answer takes and far shorter than commandTimeout.
const soon = 200 * time.Millisecond

func TestDialNamesWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		replies map[string]string
		want    string
	}{
		"hangs at once":    {map[string]string{}, "deadline exceeded"},
		"hangs at the end": {map[string]string{"PROTOCOLINFO": infoNull}, "deadline exceeded"},
		"hangs up":         {map[string]string{"PROTOCOLINFO": "250-PROTOCOLINFO 1\r\nEOF"}, "EOF"},
		"no control port":  {map[string]string{"PROTOCOLINFO": "HTTP/1.0 400 Bad Request\r\n"}, "Invalid status code"},
		"short line":       {map[string]string{"PROTOCOLINFO": "25\r\n"}, "Truncated response"},
		"another version":  {map[string]string{"PROTOCOLINFO": "250-PROTOCOLINFO 2\r\n250 OK\r\n"}, `version "2" of the control protocol`},
		"codes mixed":      {map[string]string{"PROTOCOLINFO": "250-PROTOCOLINFO 1\r\n251 OK\r\n"}, "Status code changed"},
		"no cookie":        {map[string]string{"PROTOCOLINFO": infoCookie}, "/nonexistent/cookie"},
		"needs a password": {map[string]string{"PROTOCOLINFO": infoPassword}, "it demands a password"},
		"refuses us":       {map[string]string{"PROTOCOLINFO": infoNull, "AUTHENTICATE": "515 Authentication failed\r\nEOF"}, "515"},
		"no way in":        {map[string]string{"PROTOCOLINFO": "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NEW\r\n250 OK\r\n"}, `only ["NEW"]`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := fakeTor(t, tt.replies)
			_, err := Dial(deadline(t, soon), address)
			wantError(t, err, tt.want, address)
		})
	}
}

func TestAddressesOfAControlPort(t *testing.T) {
	for in, want := range map[string][2]string{
		"/run/tor/control":      {"unix", "/run/tor/control"},
		"unix:/run/tor/control": {"unix", "/run/tor/control"},
		"127.0.0.1:9051":        {"tcp", "127.0.0.1:9051"},
		"[::1]:9051":            {"tcp", "[::1]:9051"},
	} {
		network, target, err := splitAddress(in)
		if err != nil || network != want[0] || target != want[1] {
			t.Errorf("%s: %s %s %v", in, network, target, err)
		}
	}
	for _, in := range []string{"9051", "", "localhost", "127.0.0.1:"} {
		_, err := Dial(context.Background(), in)
		wantError(t, err, "neither the path of a socket nor host:port")
	}
}

// dialFake connects to a tor that lets everybody in.
func dialFake(t *testing.T, replies map[string]string) *Control {
	t.Helper()
	replies["PROTOCOLINFO"], replies["AUTHENTICATE"] = infoNull, ok
	c, err := Dial(deadline(t, 5*time.Second), fakeTor(t, replies))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAHungTorHangsNobody(t *testing.T) {
	c := dialFake(t, map[string]string{})
	begin := time.Now()
	_, err := c.Bootstrap(deadline(t, soon))
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v is not about the deadline", err)
	}
	if took := time.Since(begin); took > 10*soon {
		t.Errorf("it took %v", took)
	}
	// The reply may still come, and must not be taken for another command's.
	_, err = c.Version(deadline(t, soon))
	wantError(t, err, "talk to tor at")
}

func TestCancelWakesACommand(t *testing.T) {
	c := dialFake(t, map[string]string{})
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := c.Version(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v is not about the cancellation", err)
	}
	if took := time.Since(begin); took > commandTimeout/2 {
		t.Errorf("it took %v", took)
	}
}

func TestBrokenRepliesAreErrors(t *testing.T) {
	for name, tt := range map[string]struct{ reply, want string }{
		"cut off":       {"250-status/bootstrap-phase=NOTICE BOOTSTR\r\nEOF", "EOF"},
		"cut in a line": {"250-status/bootEOF", "EOF"},
		"another key":   {"250-version=1\r\n250 OK\r\n", "no such value"},
		"nonsense":      {"250-status/bootstrap-phase=%s%d\r\n250 OK\r\n", "is not one"},
		"refused":       {"552 Unrecognized key\r\n", "552"},
		"many lines":    {"250+status/bootstrap-phase=\r\n" + strings.Repeat("\n", 2*linesMax), errReplyTooLong.Error()},
		"too much":      {"250+status/bootstrap-phase=\r\n" + strings.Repeat(strings.Repeat("x", 1000)+"\r\n", 5000), errReplyTooLong.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := dialFake(t, map[string]string{"GETINFO": tt.reply}).Bootstrap(deadline(t, 5*time.Second))
			wantError(t, err, tt.want)
		})
	}
}

func TestARefusedCommandLeavesTheConnectionUsable(t *testing.T) {
	c := dialFake(t, map[string]string{"GETCONF": "552 Unrecognized configuration key \"X\"\r\n", "GETINFO": "250-version=1\r\n250 OK\r\n"})
	_, err := c.GetConf(deadline(t, 5*time.Second), "X")
	wantError(t, err, "552", "GETCONF X")
	if v, err := c.Version(deadline(t, 5*time.Second)); v != "1" || err != nil {
		t.Errorf("version %q, %v", v, err)
	}
}

func TestACommandIsOneLine(t *testing.T) {
	c := dialFake(t, map[string]string{"GETCONF": ok})
	_, err := c.GetConf(deadline(t, 5*time.Second), "X\r\nSIGNAL HALT")
	wantError(t, err, "a line break")
}

func TestLoadConfKeepsLinesThatBeginWithADot(t *testing.T) {
	client, server := net.Pipe()
	c := newControl("pipe", client)
	defer c.Close()
	got := make(chan string, 1)
	go func() {
		var lines []string
		for in := bufio.NewScanner(server); in.Scan(); {
			lines = append(lines, in.Text())
			if in.Text() == "." {
				break
			}
		}
		got <- strings.Join(lines, "|")
		_, _ = io.WriteString(server, ok) // the client may have hung up
	}()
	if err := c.loadConf(deadline(t, 5*time.Second), ".\nA 100%s\n.b\n"); err != nil {
		t.Fatal(err)
	}
	if got, want := <-got, "+LOADCONF|..|A 100%s|..b|."; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestWaitBootstrapSaysWhereItStopped(t *testing.T) {
	phase := func(s string) map[string]string {
		return map[string]string{"GETINFO": "250-status/bootstrap-phase=" + s + "\r\n250 OK\r\n", "PROTOCOLINFO": infoNull, "AUTHENTICATE": ok}
	}
	tests := map[string]struct {
		replies map[string]string
		want    []string
	}{
		"stuck": {phase(`WARN BOOTSTRAP PROGRESS=10 TAG=conn_done SUMMARY="Connected to a relay" WARNING="No route to host"`),
			[]string{"10% (conn_done): Connected to a relay", "tor warns: No route to host", "bridges (attach --bridge", "clock", "the time to wait (--timeout) is over, and it is at 10%"}},
		"silent":  {map[string]string{}, []string{"tor does not answer", "the time to wait (--timeout) is over"}},
		"refused": {map[string]string{"PROTOCOLINFO": "510 No\r\n"}, []string{"tor does not answer", "510", "the time to wait (--timeout) is over"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := fakeTor(t, tt.replies)
			err := WaitBootstrap(deadline(t, 3*soon), func(ctx context.Context) (*Control, error) { return Dial(ctx, address) }, nil)
			wantError(t, err, append(tt.want, "wait for tor to bootstrap")...)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v hides why the wait ended", err)
			}
		})
	}
}

func TestWaitBootstrapReportsEachChangeOnce(t *testing.T) {
	answers := make(chan string, 8)
	address := fakeTor(t, map[string]string{"PROTOCOLINFO": infoNull, "AUTHENTICATE": ok, "GETINFO": "250-status/bootstrap-phase=X\r\n250 OK\r\n"})
	for _, p := range []string{"5", "5", "broken", "5", "100"} {
		answers <- p
	}
	var got []int
	// Each answer comes from a connection of its own: dialling anew after an
	// error is part of the claim.
	dial := func(ctx context.Context) (*Control, error) {
		p := <-answers
		if p == "broken" {
			return Dial(ctx, address)
		}
		return Dial(ctx, fakeTor(t, map[string]string{"PROTOCOLINFO": infoNull, "AUTHENTICATE": ok,
			"GETINFO": "250-status/bootstrap-phase=NOTICE BOOTSTRAP PROGRESS=" + p + " TAG=x SUMMARY=\"y\"\r\n250 OK\r\nEOF"}))
	}
	if err := WaitBootstrap(deadline(t, 10*time.Second), dial, func(p Progress) { got = append(got, p.Percent) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != 5 || got[1] != 100 {
		t.Errorf("reported %v, want [5 100]", got)
	}
}
