package cell

import (
	"os/user"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

const identity = `id -u; id -g; id -G; echo "$HOME $USER $LOGNAME"`

func TestTheProgramRunsAsWhoeverCalledSudo(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	must(t, err)
	root, err := user.LookupId("0")
	must(t, err)
	sudo := []string{"SUDO_UID=" + nobody.Uid, "SUDO_GID=" + nobody.Gid, "SUDO_USER=nobody"}
	asNobody := strings.Join([]string{nobody.Uid, nobody.Gid, nobody.Gid, nobody.HomeDir + " nobody nobody"}, "\n")
	asRoot := strings.Join([]string{"0", "0", "0", root.HomeDir + " root root"}, "\n")
	for name, c := range map[string]struct {
		user string
		env  []string
		want string
	}{
		"by sudo":                     {"", sudo, asNobody},
		"by sudo, insisting on root":  {"root", sudo, asRoot},
		"as root, without sudo":       {"", []string{"HOME=/h", "USER=u", "LOGNAME=l"}, "0\n0\n0\n/h u l"},
		"by name":                     {"nobody", nil, asNobody},
		"by number":                   {nobody.Uid, nil, asNobody},
		"by sudo, unknown to passwd":  {"", []string{"SUDO_UID=54321", "SUDO_GID=54322", "SUDO_USER=ldap"}, "54321\n54322\n54322\n ldap ldap"},
		"by a root who called itself": {"", []string{"SUDO_UID=0", "SUDO_GID=0", "SUDO_USER=root"}, asRoot},
	} {
		for _, policy := range both {
			b := newBench(t, policy)
			b.User, b.env = c.user, c.env
			if got := b.sh(identity); got != c.want {
				t.Errorf("%s, %s: %q, want %q", name, policy, got, c.want)
			}
		}
	}
}

func TestTheProgramHasItsUsersGroups(t *testing.T) {
	b := newBench(t, config.PolicyTor)
	group, err := user.LookupGroup("mail")
	must(t, err)
	b.World = world(t)
	writeFile(t, b.World+"/etc/passwd", "root:x:0:0::/root:/bin/sh\nguest:x:54321:54322::/home/guest:/bin/sh\n")
	writeFile(t, b.World+"/etc/group", "root:x:0:\nguest:x:54322:\nmail:x:"+group.Gid+":guest\nother:x:7:root\n")
	b.User = "guest"
	want := "54321\n54322\n54322 " + group.Gid + "\n/home/guest guest guest"
	if got := b.sh(identity); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAUserWhoDoesNotExistIsAnError(t *testing.T) {
	b := newBench(t, config.PolicyDirect)
	for _, name := range []string{"no-such-user", "4321234"} {
		b.User = name
		got := b.run("echo", "leak")
		if got.code != 1 || got.out != "" || !strings.Contains(got.err, "find --user "+name+": user: unknown user") || got.router != "" {
			t.Errorf("%+v", got)
		}
	}
}
