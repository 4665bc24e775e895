package tor

import (
	"context"
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantNothingLeft checks that a start that was refused left no state behind.
func wantNothingLeft(t *testing.T, o Options) {
	t.Helper()
	if left, err := os.ReadDir(o.Dir); err == nil {
		t.Errorf("left in the state directory: %v", left)
	}
	wantNoProcess(t, o)
}

func wantNoProcess(t *testing.T, o Options) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil && isOurs(pid, o.Dir) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestStartNamesThePortThatIsTaken(t *testing.T) {
	o := options(t)
	dns, err := net.ListenPacket("udp", "[::]:9053")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	_, err = Start(deadline(t, 30*time.Second), o)
	wantError(t, err, ":9053 (DNSPort, UDP): Address already in use", "ss -lntup")
	wantNothingLeft(t, o)

	o.Ports.DNS = 9054
	trans, err := net.Listen("tcp4", "127.0.0.1:9040")
	if err != nil {
		t.Fatal(err)
	}
	defer trans.Close()
	_, err = Start(deadline(t, 30*time.Second), o)
	wantError(t, err, "0.0.0.0:9040 (TransPort, TCP): Address already in use")
	wantNothingLeft(t, o)
}

func TestStartNamesTheUsersLine(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  []string
	}{
		"unknown option":  {[]string{"# bridges", "BandwidthRate 1 MB", "Foo bar", "ContactInfo x"}, []string{":3: tor refuses \"Foo bar\"", "Unknown option 'Foo'"}},
		"bad value":       {[]string{"SocksPort abc"}, []string{":1: tor refuses", `Couldn't parse address "abc" for SocksPort`, "Invalid SocksPort configuration"}},
		"not named":       {[]string{"", "BandwidthRate 1 MB", `Nickname "foo`}, []string{":3: tor refuses", "Invalid escape sequence in quoted string"}},
		"something lacks": {[]string{"ContactInfo x", "UseBridges 1", "BandwidthRate 1 MB"}, []string{":2: tor refuses \"UseBridges 1\"", "must specify at least one bridge"}},
		"continued":       {[]string{"UseBridges 1", "Bridge \\", " foo bar", "ContactInfo x"}, []string{`:2: tor refuses "Bridge \\"`, "Bridge line did not parse"}},
		"ours":            {[]string{"ContactInfo x", "ControlSocket /x"}, []string{":2: ControlSocket is set by torbpf"}},
	}
	o := options(t)
	for _, tt := range tests {
		o := o
		o.ExtraTorrc = extra(t, tt.lines...)
		_, err := Start(deadline(t, 30*time.Second), o)
		wantError(t, err, append(tt.want, o.ExtraTorrc)...)
		wantNothingLeft(t, o)
	}
	o.ExtraTorrc = "/nonexistent/torrc"
	_, err := Start(deadline(t, 30*time.Second), o)
	wantError(t, err, "/nonexistent/torrc", "read the torrc lines to add")
}

func TestOurOwnMistakeIsNotBlamedOnTheUser(t *testing.T) {
	o := options(t)
	o.ExtraTorrc = extra(t, "ContactInfo x")
	o.Onion4, _ = o.Onion4.Addr().Prefix(24) // tor wants at least a /16
	_, err := Start(deadline(t, 30*time.Second), o)
	wantError(t, err, "check tor's configuration", "expects a /16 network or larger")
	if strings.Contains(err.Error(), o.ExtraTorrc) {
		t.Errorf("%v names the user's file", err)
	}
}

func TestStartSaysHowToGetTor(t *testing.T) {
	o := options(t)
	for _, name := range []string{"tor-that-nobody-has", "/nonexistent/tor"} {
		o.Binary = name
		_, err := Start(deadline(t, 5*time.Second), o)
		wantError(t, err, name, "apt install tor")
		wantNothingLeft(t, o)
	}
}

func TestTorNeverRunsAsRoot(t *testing.T) {
	_, err := accountOf(&user.User{Username: "toor", Uid: "0", Gid: "7"})
	wantError(t, err, "toor", "unprivileged")
}

func TestASecondStartIsRefused(t *testing.T) {
	o := options(t)
	d := started(t, o)
	_, err := Start(deadline(t, 30*time.Second), o)
	wantError(t, err, "it runs already")
	if !d.Alive() {
		t.Error("the first tor is gone")
	}
}

func TestWhatAKilledTorLeftIsNoObstacle(t *testing.T) {
	o := options(t)
	d := started(t, o)
	if err := unix.Kill(d.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the killed tor is gone", func() bool { return !d.Alive() })
	again := started(t, o)
	if again.PID() == d.PID() {
		t.Error("nothing was started")
	}
}

// fakeProgram stands in for tor: it accepts every configuration.
func fakeProgram(t *testing.T, o Options, script string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(o.Dir), "faketor")
	text := "#!/bin/sh\ncase \"$*\" in *--verify-config) exit 0;; esac\n" + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAStartThatDoesNotEndIsCutOff(t *testing.T) {
	o := options(t)
	o.Binary = fakeProgram(t, o, "echo 'Nov 22 16:47:25.247 [warn] I am stuck'; while :; do sleep 0.1; done")
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Start(ctx, o)
	wantError(t, err, "wait for tor to answer", "I am stuck")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v hides why", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	wantNothingLeft(t, o)

	o.Binary = fakeProgram(t, o, "echo Segmentation fault; exit 3")
	_, err = Start(deadline(t, 5*time.Second), o)
	wantError(t, err, "it ended: Segmentation fault")
	wantNothingLeft(t, o)

	o.Binary = fakeProgram(t, o, "exit 0")
	_, err = Start(deadline(t, 5*time.Second), o)
	wantError(t, err, "it ended without a word: is that program tor?")
	wantNothingLeft(t, o)
}

func TestDirectoriesThatOthersCouldTurnAreRefused(t *testing.T) {
	nobody := "chown nobody "
	tests := map[string]struct{ script, want string }{
		"data of another":        {"mkdir data; " + nobody + "data", "data belongs to uid 65534, not to"},
		"data of root":           {"mkdir data", "data belongs to uid 0, not to"},
		"data open to the group": {"mkdir data; chown debian-tor data; chmod 770 data", "others can write to"},
		"data is a file":         {"touch data", "data is not a directory"},
		"data is a link":         {"mkdir x; chown debian-tor x; ln -s x data", "data is not a directory"},
		"state of another":       {"mkdir state; " + nobody + "state", "state belongs to uid 65534"},
		"state open to all":      {"mkdir state; chmod 777 state", "others can write to"},
		"state sticky":           {"mkdir state; chmod 1777 state", "others can write to"},
		"link of another":        {"mkdir x; ln -s x state; chown -h nobody state", "belongs to uid 65534"},
		"parent of another":      {nobody + ".", "belongs to uid 65534"},
		"parent open to all":     {"chmod 777 .", "others can write to"},
	}
	base := options(t)
	for _, tt := range tests {
		o, dir := base, place(t)
		o.Dir, o.DataDir = filepath.Join(dir, "state"), filepath.Join(dir, "data")
		sh(t, "cd "+dir+"; "+tt.script)
		_, err := Start(deadline(t, 10*time.Second), o)
		wantError(t, err, tt.want)
		wantNoProcess(t, o)
	}
}

func TestPathsThatATorrcCannotHoldAreRefused(t *testing.T) {
	o := options(t)
	for bad, want := range map[string]string{
		"relative":                     "not absolute",
		"/run/../etc":                  "not absolute and clean",
		"/run/with space":              "a torrc cannot hold",
		"/run/with#mark":               "a torrc cannot hold",
		"/run/line\nSocksPort 9":       "a torrc cannot hold",
		"/" + strings.Repeat("x", 100): "shorter",
	} {
		o := o
		o.Dir = bad
		_, err := Start(deadline(t, 5*time.Second), o)
		wantError(t, err, want)
	}
	o.Ports.Trans = 0
	_, err := Start(deadline(t, 5*time.Second), o)
	wantError(t, err, "other than 0")
}
