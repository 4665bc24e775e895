package sentry

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestUnprivilegedProcessWritesTheGateOfItsInstance(t *testing.T) {
	gates := newGates(t)
	fd, err := unix.FcntlInt(uintptr(gates.FD()), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	file := os.NewFile(uintptr(fd), "gates")
	defer file.Close()
	cmd := exec.Command("/proc/self/exe", roleGateWriter)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	says := bufio.NewScanner(stdout)
	expect := func(word string) {
		t.Helper()
		if !says.Scan() || says.Text() != word {
			t.Fatalf("the writer said %q, want %q", says.Text(), word)
		}
	}
	expect("open")
	for instance := range gates.MaxEntries() {
		if open := gateIsOpen(t, gates, instance); open != (instance == 3) {
			t.Errorf("gate %d: open = %v", instance, open)
		}
	}
	_, err = stdin.Write([]byte("go on\n"))
	must(t, err)
	expect("shut")
	if gateIsOpen(t, gates, 3) {
		t.Error("gate 3 is still open")
	}
	must(t, cmd.Wait())
}

func TestOpenGateRefusesWhatIsNotAGate(t *testing.T) {
	gates := newGates(t)
	other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer other.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer file.Close()
	for name, test := range map[string]struct {
		fd       int
		instance uint32
		want     string
	}{
		"no such gate":         {gates.FD(), 16, "16 gates only"},
		"no such gate at all":  {gates.FD(), 1 << 31, "16 gates only"},
		"not mappable":         {other.FD(), 0, "not the map of gates"},
		"a file":               {int(file.Fd()), 0, "not the map of gates"},
		"no such descriptor":   {999, 0, "no such file"},
		"negative descriptor ": {-1, 0, "no such file"},
	} {
		if _, err := OpenGate(test.fd, test.instance); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
	}
	last, err := OpenGate(gates.FD(), 15)
	must(t, err)
	last.Set(true)
	must(t, last.Close())
	if !gateIsOpen(t, gates, 15) {
		t.Error("the last gate was not opened, or shut by Close")
	}
}
