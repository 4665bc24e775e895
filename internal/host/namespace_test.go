package host

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamespaceTellsNamespacesApart(t *testing.T) {
	here := namespace(t)
	if again := namespace(t); again != here {
		t.Errorf("the same namespace is %+v and %+v", here, again)
	}
	enterNamespace(t)
	there := namespace(t)
	if there.Name != fmt.Sprintf("ns-%d", there.Inode) {
		t.Errorf("a new namespace is called %q", there.Name)
	}
	if there.Inode == here.Inode || there.Cookie == here.Cookie && haveCookies(t) {
		t.Errorf("two namespaces are %+v and %+v", here, there)
	}
}

// haveCookies is false before Linux 5.14, where all cookies are 0.
func haveCookies(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 5 || major == 5 && minor >= 14
}

// The test becomes process 1 of a process namespace of its own, in a new network
// namespace: that is then the host's.
func TestNamespaceOfProcess1IsTheHost(t *testing.T) {
	if os.Getpid() == 1 {
		if ns := namespace(t); ns.Name != "host" {
			t.Errorf("the namespace of process 1 is called %q", ns.Name)
		}
		return
	}
	out, err := exec.Command("unshare", "--net", "--pid", "--fork", "--mount-proc",
		os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as process 1: %v\n%s", err, out)
	}
}

func namespace(t *testing.T) NS {
	t.Helper()
	ns, err := Namespace()
	if err != nil {
		t.Fatal(err)
	}
	return ns
}
