package tor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTorOutlivesTheCommandThatStartedIt(t *testing.T) {
	o := options(t)
	args, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	starter := exec.Command(self, string(args))
	starter.Env = append(os.Environ(), role+"=starter", "NOTIFY_SOCKET=/nonexistent")
	if out, err := starter.CombinedOutput(); err != nil {
		t.Fatalf("the starter: %v\n%s", err, out)
	}

	d, err := Find(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, d)
	c, err := d.Dial(deadline(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p, err := c.Bootstrap(deadline(t, 5*time.Second)); err != nil || p.Percent != 0 {
		t.Errorf("bootstrap: %v, %v", p, err)
	}

	proc := fmt.Sprintf("/proc/%d/", d.PID())
	for _, fd := range []string{"0", "1", "2"} {
		if target, err := os.Readlink(proc + "fd/" + fd); err != nil || target != "/dev/null" && target != o.startupPath() {
			t.Errorf("fd %s is %s, %v", fd, target, err)
		}
	}
	if cwd, err := os.Readlink(proc + "cwd"); err != nil || cwd != "/" {
		t.Errorf("works in %s, %v: a file system that cannot be unmounted", cwd, err)
	}
	if env, err := os.ReadFile(proc + "environ"); err != nil || strings.Contains(string(env), "NOTIFY_SOCKET") {
		t.Errorf("tor would speak to systemd for us: %q, %v", env, err)
	}
	if sid, err := unix.Getsid(d.PID()); err != nil || sid != d.PID() {
		t.Errorf("session %d of process %d, %v", sid, d.PID(), err)
	}
	wantUnprivileged(t, proc+"status")
	wantFiles(t, proc+"limits")
}

// wantFiles checks that tor has the descriptors that a router's clients need, though who has started it
// keeps to few.
func wantFiles(t *testing.T, path string) {
	t.Helper()
	limits, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(limits), "Max open files")
	fields := strings.Fields(line)
	if !found || len(fields) < 2 {
		t.Fatalf("no limit of open files in %s", limits)
	}
	if soft, err := strconv.Atoi(fields[0]); err != nil || soft <= starterFiles || fields[0] != fields[1] {
		t.Errorf("tor may open %s files, and no more than %s: its clients need more", fields[0], fields[1])
	}
}

// wantUnprivileged checks that a process has the ids of tor's account and no
// right beyond.
func wantUnprivileged(t *testing.T, path string) {
	t.Helper()
	status, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	acct, err := LookupAccount()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", acct.UID), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", acct.GID),
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "\nGroups:\t \n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in its status: it may do more than its account", want)
		}
	}
}

func TestStopRemovesAllButTheDataDirectory(t *testing.T) {
	o := options(t)
	d := started(t, o)
	if !d.Alive() {
		t.Error("it runs and is not alive")
	}
	if err := d.Stop(deadline(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if d.Alive() {
		t.Error("it is alive after Stop")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", d.PID())); err == nil {
		t.Error("the process is there after Stop")
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory is there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.DataDir, "state")); err != nil {
		t.Errorf("tor's guards are gone: %v", err)
	}
	if _, err := Find(o.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Find after Stop: %v", err)
	}
	if err := d.Stop(deadline(t, time.Second)); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	d = started(t, o) // with the data directory of the first
	if err := d.Stop(deadline(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}

func TestStopLeavesFilesOfOthers(t *testing.T) {
	o := options(t)
	d := started(t, o)
	sh(t, "echo x >"+o.Dir+"/notes")
	if err := d.Stop(deadline(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != "notes" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestAHungTorIsNoticedAndStillStops(t *testing.T) {
	o := options(t)
	d := started(t, o)
	c, err := d.Dial(deadline(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := unix.Kill(d.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func(context.Context) error{
		"an old connection": func(ctx context.Context) error { _, err := c.Bootstrap(ctx); return err },
		"a new connection":  func(ctx context.Context) error { _, err := d.Dial(ctx); return err },
		"an update": func(ctx context.Context) error {
			o := o
			o.AllowFrom = nil
			_, err := d.Update(ctx, o)
			return err
		},
	} {
		begin := time.Now()
		// An update checks the torrc first, which takes a moment.
		if err := ask(deadline(t, time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	if !d.Alive() {
		t.Error("a stopped process is not gone")
	}
	begin := time.Now()
	if err := d.Stop(deadline(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 3*time.Second || d.Alive() {
		t.Errorf("Stop took %v; alive: %v", took, d.Alive())
	}
}

func TestAPidOfSomebodyElseIsNotOurTor(t *testing.T) {
	o := options(t)
	d := started(t, o)
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	otherStart, err := startTicks(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	real := d.rec
	for name, change := range map[string]func(r *record){
		"another program":    func(r *record) { r.PID, r.Start = other.Process.Pid, otherStart },
		"another start time": func(r *record) { r.Start++ },
		"nobody":             func(r *record) { r.PID = 1 << 22 },
		"no process":         func(r *record) { r.PID = 0 },
	} {
		r := real
		change(&r)
		if err := r.write(o.Dir); err != nil {
			t.Fatal(err)
		}
		if found, err := Find(o.Dir); err != nil || found.PID() != real.PID {
			t.Errorf("%s: found %v, %v; want process %d, which was not written down", name, found, err, real.PID)
		}
	}
	wrong := Daemon{dir: o.Dir, rec: record{PID: other.Process.Pid, Start: otherStart}}
	if err := wrong.Stop(deadline(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("Stop ended another process: %v", err)
	}
}

// A command that is killed between starting tor and noting its pid must not
// leave a tor that nobody can stop.
func TestFindWithoutARecord(t *testing.T) {
	o := options(t)
	d := started(t, o)
	if err := os.Remove(recordPath(o.Dir)); err != nil {
		t.Fatal(err)
	}
	found, err := Find(o.Dir)
	if err != nil || found.PID() != d.PID() {
		t.Fatalf("found %v, %v; want process %d", found, err, d.PID())
	}
	if err := d.Stop(deadline(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	acct, err := LookupAccount()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.makeDirs(acct); err != nil {
		t.Fatal(err)
	}
	imposter := exec.Command("sh", "-c", "read x", "sh", "-f", o.torrcPath())
	imposter.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	wait, err := imposter.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := imposter.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = wait.Close(), imposter.Wait() }()
	if found, err := Find(o.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("another user's process was taken for tor: %v, %v", found, err)
	}
	if err := os.WriteFile(recordPath(o.Dir), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Find(o.Dir)
	wantError(t, err, recordPath(o.Dir), "remove the file")
}

// The process that opens the gate is neither root nor tor; all it has is the group.
func TestTheGroupMayAskTor(t *testing.T) {
	o := options(t)
	d := started(t, o)
	acct, err := LookupAccount()
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(filepath.Dir(o.Dir), "asker")
	copyFile(t, "/proc/self/exe", self)
	ask := func(gid uint32) (string, string, error) {
		cmd := exec.Command(self, d.Socket())
		cmd.Env = []string{role + "=asker"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: gid}}
		var out, complaint strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &complaint
		err := cmd.Run()
		return out.String(), complaint.String(), err
	}
	if out, _, err := ask(acct.GID); err != nil || out != fmt.Sprintf("uid 65534 gid %d: 0%%", acct.GID) {
		t.Errorf("with the group: %q, %v", out, err)
	}
	if _, complaint, err := ask(65534); err == nil || !strings.Contains(complaint, "permission denied") {
		t.Errorf("without the group: %q, %v", complaint, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheEndOfALogIsReadAndNoLinkIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notice.log")
	if err := os.WriteFile(path, []byte(strings.Repeat("old line\n", 20000)+"last but one\nlast\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	text, err := tail(path)
	if err != nil || len(text) > logWindow || !strings.HasPrefix(text, "old line\n") || !strings.HasSuffix(text, "\nlast but one\nlast\n") {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	sh(t, "rm "+path+"; ln -s /etc/shadow "+path)
	if text, err := tail(path); err == nil {
		t.Errorf("a link of tor's was followed: %q", text)
	}
}
