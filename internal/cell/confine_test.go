package cell

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

// status returns fields of the program's /proc/PID/status, blanks squeezed.
func (b *bench) status() map[string]string {
	b.t.Helper()
	fields := make(map[string]string)
	for line := range strings.Lines(b.sh("cat /proc/self/status")) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

func keptMask() string {
	var mask uint64
	for _, capability := range kept {
		mask |= 1 << capability
	}
	return fmt.Sprintf("%016x", mask)
}

func TestPolicyTorTakesWhatLeadsAroundIt(t *testing.T) {
	none := strings.Repeat("0", 16)
	nobody, err := user.Lookup("nobody")
	must(t, err)
	for name, want := range map[string]map[string]string{
		"root":   {"CapInh": none, "CapPrm": keptMask(), "CapEff": keptMask(), "CapBnd": keptMask(), "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2", "Uid": "0 0 0 0"},
		"nobody": {"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": keptMask(), "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2", "Uid": strings.TrimSpace(strings.Repeat(nobody.Uid+" ", 4))},
	} {
		b := newBench(t, config.PolicyTor)
		b.User = name
		got := b.status()
		for field, value := range want {
			if got[field] != value {
				t.Errorf("%s: %s is %q, want %q", name, field, got[field], value)
			}
		}
	}
}

func TestPolicyDirectTakesNoPrivilege(t *testing.T) {
	own, err := os.ReadFile("/proc/self/status")
	must(t, err)
	b := newBench(t, config.PolicyDirect)
	for field, value := range b.status() {
		switch field {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid", "Groups":
			if !strings.Contains(strings.Join(strings.Fields(string(own)), " "), strings.TrimSpace(field+": "+value)) {
				t.Errorf("%s is %q, unlike ours", field, value)
			}
		}
	}
}

func TestRootOnTorCannotLeaveItsGroup(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	got := b.run("sh", "-c", `
		for procs in $(awk '$0 ~ / - cgroup/ {print $5}' /proc/self/mountinfo); do
			echo $$ >$procs/cgroup.procs && echo left by $procs
		done
		umount `+b.root+` && echo unmounted
		mount -o remount,bind,rw `+b.root+` && echo remounted
		mount -t cgroup2 none /mnt && echo mounted
		nsenter --mount=/proc/1/ns/mnt true && echo entered
		ls /proc/1/root/ && echo seen
		grep ^0:: /proc/self/cgroup`)
	if lines := strings.Fields(got.out); len(lines) != 1 || !strings.HasPrefix(lines[0], "0::/torbpf/"+b.Namespace) {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(got.err, "Read-only file system") {
		t.Errorf("nothing was tried: %s", got.err)
	}
}

// probe is a static program that tries which calls it may make.
const probe = `package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	group, _ := os.ReadFile("/proc/self/cgroup")
	fmt.Println(strings.Contains(string(group), "\n0::/torbpf/") || strings.HasPrefix(string(group), "0::/torbpf/"))
	for _, family := range []int{1, 2, 10, 16, 17, 33, 43} { // unix, inet, inet6, netlink, packet, rxrpc, smc
		_, err := syscall.Socket(family, syscall.SOCK_DGRAM, 0)
		fmt.Println(family, err)
	}
	_, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, 1)
	fmt.Println("raw", err)
	fd, _ := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	fmt.Println("mark", syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, 36, 0x1000000))
	_, _, number := syscall.Syscall(425, 1, 0, 0)
	fmt.Println("io_uring", number)
	_, err = syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 262)
	fmt.Println("mptcp", err)
	_, _, number = syscall.Syscall(syscall.SYS_IOCTL, 0, 0xffffffff00005412, 0)
	fmt.Println("typing", number)
	_, _, number = syscall.Syscall(syscall.SYS_KEYCTL, 0, 0, 0)
	fmt.Println("keys", number)
}
`

func buildProbe(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "probe.go"), []byte(probe), 0o600))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), filepath.Join(dir, "probe.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "probe")
}

// TestPolicyDirectKeepsTheTerminal: what is typed there the caller's shell would run.
func TestPolicyDirectKeepsTheTerminal(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	if got := b.run(buildProbe(t)); !strings.Contains(got.out, "typing operation not permitted\n") || !strings.Contains(got.out, "mptcp <nil>\n") {
		t.Errorf("%+v", got)
	}
}

func TestPolicyTorKnowsNoProxies(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	b.env = []string{"http_proxy=http://127.0.0.1:3128", "ALL_PROXY=socks5://127.0.0.1:9", "kept=1"}
	if got := b.run("env"); strings.Contains(strings.ToLower(got.out), "_proxy=") || !strings.Contains(got.out, "kept=1\n") {
		t.Errorf("%+v", got)
	}
}

func TestRootOnTorChangesNothingOfTheKernels(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	b.World = t.TempDir()
	must(t, os.MkdirAll(b.World+"/run/torbpf/bpf", 0o755))
	got := b.run("sh", "-c", `
		ls /run/torbpf
		echo 1 >/proc/sys/net/ipv4/ip_forward && echo forwarding
		echo core >/proc/sys/kernel/core_pattern && echo cores
		touch /sys/kernel/x`)
	if got.out != "" || strings.Count(got.err, "Read-only file system") != 3 {
		t.Errorf("%+v", got)
	}
}

func TestAStaticProgramOnTorGetsNoOtherSockets(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	want := `true
1 <nil>
2 <nil>
10 <nil>
16 <nil>
17 address family not supported by protocol
33 address family not supported by protocol
43 address family not supported by protocol
raw operation not permitted
mark operation not permitted
io_uring function not implemented
mptcp protocol not supported
typing operation not permitted
keys operation not permitted
`
	if got := b.run(buildProbe(t)); got.code != 0 || got.out != want {
		t.Errorf("%+v\nwant\n%s", got, want)
	}
}

func TestTheProgramGetsNoDescriptorButTheStandardThree(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	cmd := b.command("sh", "-c", "ls /proc/$$/fd")
	secret, err := os.Open("/")
	must(t, err)
	defer secret.Close()
	cmd.ExtraFiles = []*os.File{secret} // to Run, as a calling script leaves it
	out, err := cmd.Output()
	if err != nil || string(out) != "0\n1\n2\n" {
		t.Errorf("descriptors %q (%v)", out, err)
	}
}
