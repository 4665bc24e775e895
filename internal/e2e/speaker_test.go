package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet"
)

// envSpeak makes the test binary a speaker instead.
const envSpeak = "TORBPF_E2E_SPEAK"

// speakerPatience is how long a speaker waits for what may be dropped in silence.
const speakerPatience = 5 * time.Second

// speakerFile is a copy of the test binary that every user may run.
var speakerFile string

// copySpeaker makes a copy of the test binary, which is a program of its own.
func copySpeaker(path string) error {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o755)
}

// speaker is a process of the router that talks to the network as it is told: one that
// torbpf finds, and tells from others by its user, program and control group.
type speaker struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// startSpeaker runs a program, "" for speakerFile, as a user.
func startSpeaker(t testing.TB, lab *testnet.Lab, user int, file string) *speaker {
	t.Helper()
	if file == "" {
		file = speakerFile
	}
	id := strconv.Itoa(user)
	return speakerBy(t, lab.Router.Command(t.Context(), "setpriv", "--reuid", id, "--regid", id, "--clear-groups", file))
}

// speakerBy is what a command becomes, or runs.
func speakerBy(t testing.TB, cmd *exec.Cmd) *speaker {
	t.Helper()
	cmd.Env = append(os.Environ(), envSpeak+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return &speaker{cmd, in, bufio.NewReader(out)}
}

// say gives an order and returns the answer to it.
func (s *speaker) say(order string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(s.in, order+"\n", args...); err != nil {
		return "", err
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		return "", err
	}
	answer, ok := strings.CutPrefix(strings.TrimSpace(line), "ok ")
	if !ok {
		return "", errors.New(answer)
	}
	return answer, nil
}

// must is say where nothing may go wrong.
func (s *speaker) must(t testing.TB, order string, args ...any) string {
	t.Helper()
	answer, err := s.say(order, args...)
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprintf(order, args...), err)
	}
	return answer
}

// direct wants a page, and a datagram's echo, in the machine's own name.
func (s *speaker) direct(addr netip.Addr) error {
	want := testnet.WANRouter4
	if addr.Is6() {
		want = testnet.WANRouter6
	}
	saw, err := s.say("get %v", addr)
	if err == nil && saw != want.String() {
		err = fmt.Errorf("%v saw %s", addr, saw)
	}
	_, echoErr := s.say("try udp %v", at(addr, testnet.PortEcho))
	return errors.Join(err, echoErr)
}

// refused wants neither: Tor is not ready, or carries no datagrams.
func (s *speaker) refused(addr netip.Addr) error {
	if saw, err := s.say("get %v", addr); err == nil {
		return fmt.Errorf("%v saw %s", addr, saw)
	}
	if _, err := s.say("try udp %v", at(addr, testnet.PortEcho)); err == nil {
		return fmt.Errorf("%v answers datagrams", addr)
	}
	return nil
}

// speak is what the process does.
func speak() {
	open := map[string]net.Conn{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := obey(open, strings.Fields(lines.Text()))
		if err != nil {
			fmt.Println("no", err)
			continue
		}
		fmt.Println("ok", answer)
	}
}

// speaking are the sockets of a speaker.
var speaking = net.Dialer{Timeout: speakerPatience}

// obey knows: mark NUMBER; serve NETWORK ADDR; open NAME NETWORK ADDR; echo NAME; try NETWORK ADDR;
// get IP; ask SERVER NAME.
func obey(open map[string]net.Conn, words []string) (string, error) {
	switch words[0] {
	case "mark":
		mark, err := strconv.ParseUint(words[1], 0, 32)
		speaking.Control = func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
			return errors.Join(err, failed)
		}
		return "marked", err
	case "serve":
		return "serving", serveEcho(words[1], words[2])
	case "open":
		conn, err := speaking.Dial(words[2], words[3])
		open[words[1]] = conn
		return "open", err
	case "echo":
		return "echo", echoOn(open[words[1]])
	case "try":
		conn, err := speaking.Dial(words[1], words[2])
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return "echo", echoOn(conn)
	case "get":
		client := http.Client{Timeout: speakerPatience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: speaking.DialContext}}
		response, err := client.Get(page(netip.MustParseAddr(words[1])))
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return strings.TrimSpace(string(body)), err
	case "ask":
		query := new(dns.Msg).SetQuestion(dns.Fqdn(words[2]), dns.TypeA)
		answer, _, err := (&dns.Client{Timeout: speakerPatience, Dialer: &speaking}).Exchange(query, words[1])
		if err == nil && len(answer.Answer) == 0 {
			err = fmt.Errorf("%s: %s", words[2], dns.RcodeToString[answer.Rcode])
		}
		return "answered", err
	}
	return "", fmt.Errorf("unknown order %q", words)
}

func echoOn(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("something")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 100))
	return err
}

func serveEcho(network, addr string) error {
	if network == "udp" {
		conn, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo(buf[:n], from) // nobody else is to hear of it
			}
		}()
		return nil
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }() // until the other side hangs up
		}
	}()
	return nil
}

// speakerIn is where further copies of the speaker may be.
func speakerIn(t testing.TB, lab *testnet.Lab, name string) string {
	t.Helper()
	file := filepath.Join(lab.Dir(), name)
	if err := copySpeaker(file); err != nil {
		t.Fatal(err)
	}
	return file
}
