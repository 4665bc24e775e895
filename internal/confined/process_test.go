package confined

import (
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const role = Role("test")

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		runtime.Gosched()
	}
}

// freeze stops a process; the signal takes effect some time after it was sent.
func freeze(t *testing.T, pid int) {
	t.Helper()
	must(t, unix.Kill(pid, unix.SIGSTOP))
	eventually(t, "it is stopped", func() bool {
		stat, err := readStat(pid)
		must(t, err)
		return stat.state == "T"
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDisposableThreadIsNeverTheFirst(t *testing.T) {
	for range 200 {
		must(t, onDisposableThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("f ran on the thread that cannot end")
			}
			return nil
		}))
	}
}

func TestStopKillsNothingButTheChild(t *testing.T) {
	sleeper := exec.Command("sleep", "60")
	must(t, sleeper.Start())
	pid := sleeper.Process.Pid
	stat, err := readStat(pid)
	must(t, err)
	for _, other := range []uint64{0, stat.starttime - 1, stat.starttime + 1} {
		if Running(pid, other) {
			t.Errorf("start time %d counts as %d", other, stat.starttime)
		}
		must(t, role.Stop(pid, other))
	}
	if !Running(pid, stat.starttime) {
		t.Error("Stop ended a process with another start time")
	}
	for _, invalid := range []int{0, -1, -pid} {
		if err := role.Stop(invalid, stat.starttime); err == nil {
			t.Errorf("Stop(%d) is no error", invalid)
		}
	}
	// A zombie is not running, and no error to stop.
	must(t, sleeper.Process.Kill())
	eventually(t, "it ends", func() bool { return !Running(pid, stat.starttime) })
	must(t, role.Stop(pid, stat.starttime))
	if err := sleeper.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	must(t, role.Stop(pid, stat.starttime)) // now there is no such process
}

func TestStopKillsAChildThatIgnoresIt(t *testing.T) {
	sleeper := exec.Command("sleep", "60")
	must(t, sleeper.Start())
	pid := sleeper.Process.Pid
	stat, err := readStat(pid)
	must(t, err)
	freeze(t, pid)
	ended := make(chan error)
	go func() { ended <- sleeper.Wait() }()
	must(t, role.stop(pid, stat.starttime, 100*time.Millisecond))
	<-ended
	if state := sleeper.ProcessState.Sys().(interface{ Signal() unix.Signal }); state.Signal() != unix.SIGKILL {
		t.Errorf("ended by %v", state.Signal())
	}
}

func TestProcessStateIsReadBehindAnyName(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for _, name := range []string{"a", "a b", ") Z 9 (", "torbpf-sentry"} {
		stat, err := parseStat("12 (" + name + ")" + rest)
		if err != nil || stat.state != "S" || stat.starttime != 4242 {
			t.Errorf("%q: %+v, %v", name, stat, err)
		}
	}
	for _, bad := range []string{"", "12", "12 (a) S 1", "12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestAccountIsNeverRoot(t *testing.T) {
	defer func(before []string) { accounts = before }(accounts)
	own, err := findAccount(0)
	must(t, err)
	with, err := findAccount(105)
	must(t, err)
	if own.UID == 0 || own.GID == 0 || with.UID != own.UID || with.GID != 105 {
		t.Errorf("accounts %+v and %+v", own, with)
	}
	accounts = []string{"root"}
	if found, err := findAccount(105); err == nil {
		t.Errorf("root is accepted: %+v", found)
	}
	accounts = []string{"no-such-account"}
	if _, err := findAccount(0); err == nil || !strings.Contains(err.Error(), "useradd") {
		t.Errorf("no account: %v", err)
	}
}
