package cell

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

const (
	servers = "nameserver 192.0.2.53\n"
	stub    = "nameserver 127.0.0.53\noptions edns0\n"
)

// world returns a folder with an /etc and a /run.
func world(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"etc", "run"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	return dir
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// withResolved is a world where systemd-resolved, nscd and Avahi run.
func withResolved(t *testing.T) string {
	t.Helper()
	dir := world(t)
	listen(t, dir+"/run/systemd/resolve/io.systemd.Resolve")
	listen(t, dir+"/run/nscd/socket")
	listen(t, dir+"/run/avahi-daemon/socket")
	writeFile(t, dir+resolvedFolder+"/resolv.conf", servers)
	writeFile(t, dir+resolvedFolder+"/stub-resolv.conf", stub)
	return dir
}

const seeSockets = `for s in /run/systemd/resolve/io.systemd.Resolve /run/nscd/socket /var/run/nscd/socket /run/avahi-daemon/socket; do
	test -e $s && echo $s; done; true`

func TestServicesThatWouldAskForNamesAreHidden(t *testing.T) {
	for policy, want := range map[config.Policy]string{config.PolicyTor: "", config.PolicyDirect: "/run/avahi-daemon/socket"} {
		b := newBench(t, policy)
		b.World = withResolved(t)
		if got := b.sh(seeSockets); got != want {
			t.Errorf("%s: sees %q, want %q", policy, got, want)
		}
		if got := b.sh(`touch /run/nscd/socket 2>/dev/null || touch /run/systemd/resolve/x 2>/dev/null || echo read-only`); got != "read-only" {
			t.Errorf("%s: %q", policy, got)
		}
	}
	// They are there without.
	if _, err := os.Stat(withResolved(t) + "/run/nscd/socket"); err != nil {
		t.Error(err)
	}
}

func TestResolvConfStaysReadable(t *testing.T) {
	for name, c := range map[string]struct {
		link, file  string // of /etc/resolv.conf
		direct, tor string
	}{
		"a link to the stub":                {link: "../run/systemd/resolve/stub-resolv.conf", direct: servers, tor: stub},
		"a link to the servers":             {link: "/run/systemd/resolve/resolv.conf", direct: servers, tor: servers},
		"a file that names the stub":        {file: "# by hand\n nameserver\t127.0.0.53\n", direct: servers, tor: "# by hand\n nameserver\t127.0.0.53\n"},
		"a file that names another server":  {file: "nameserver 127.0.0.5\n", direct: "nameserver 127.0.0.5\n", tor: "nameserver 127.0.0.5\n"},
		"a link to another daemon's folder": {link: "/run/other/resolv.conf", direct: "nameserver 192.0.2.1\n", tor: "nameserver 192.0.2.1\n"},
	} {
		for policy, want := range map[config.Policy]string{config.PolicyDirect: c.direct, config.PolicyTor: c.tor} {
			b := newBench(t, policy)
			b.World = withResolved(t)
			writeFile(t, b.World+"/run/other/resolv.conf", "nameserver 192.0.2.1\n")
			if c.link != "" {
				must(t, os.Symlink(c.link, b.World+resolvConf))
			} else {
				writeFile(t, b.World+resolvConf, c.file)
			}
			if got := b.sh("cat /etc/resolv.conf"); got != strings.TrimSpace(want) {
				t.Errorf("%s, %s: %q, want %q", name, policy, got, want)
			}
		}
	}
}

func TestDirectNamesFollowTheNetwork(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	b.World = withResolved(t)
	must(t, os.Symlink("/run/systemd/resolve/stub-resolv.conf", b.World+resolvConf))
	out, in, err := os.Pipe()
	must(t, err)
	cmd := b.command("sh", "-ec", "cat /etc/resolv.conf; read line; cat /etc/resolv.conf")
	cmd.Stdin = out
	said, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if got := readLine(t, said); got+"\n" != servers {
		t.Fatalf("at first %q", got)
	}
	// As resolved does it, and as root outside sees it.
	writeFile(t, b.World+resolvedFolder+"/new", "nameserver 198.51.100.53\n")
	must(t, os.Rename(b.World+resolvedFolder+"/new", b.World+resolvedFolder+"/resolv.conf"))
	_, err = in.WriteString("go on\n")
	must(t, err)
	if got := readLine(t, said); got != "nameserver 198.51.100.53" {
		t.Errorf("then %q", got)
	}
	must(t, cmd.Wait())
}

func TestNothingOutsideTheCellIsHidden(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	b.World = withResolved(t)
	b.sh("true")
	for _, socket := range []string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"} {
		if _, err := os.Stat(b.World + socket); err != nil {
			t.Error(err)
		}
	}
}
