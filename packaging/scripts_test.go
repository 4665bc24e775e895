package packaging

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// host stands in for a machine's programs, for scripts that run in a file system of their own
// in which these are before all others. All programs say what they are asked; torbpf and
// whoever else is in fails ends with that code.
type host struct {
	dir   string
	setup string // commands before the script
}

// recorder is every program: it notes how it was called.
const recorder = `#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
eval "exit \${FAIL_$(echo "${0##*/} ${1:-}" | tr -c 'a-z\n' _):-0}"
`

func newHost(t *testing.T, programs ...string) host {
	t.Helper()
	h := host{dir: t.TempDir()}
	for _, p := range programs {
		path := filepath.Join(h.dir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(recorder), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// script is one of scripts/, as packages.sh makes it whole.
func script(t *testing.T, name string) string {
	t.Helper()
	var text strings.Builder
	for _, file := range []string{"lib", name} {
		part, err := os.ReadFile(filepath.Join("scripts", file+".sh"))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(part)
	}
	return text.String()
}

// run runs a shell script in the host and returns what was asked of its programs, one a line,
// what the script says, and whether it succeeded.
func (h host) run(t *testing.T, text string, env []string, args ...string) (asked, says string, ok bool) {
	t.Helper()
	log, path := filepath.Join(h.dir, "log"), filepath.Join(h.dir, "script")
	if err := errors.Join(os.WriteFile(log, nil, 0o644), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		t.Fatal(err)
	}
	const inside = `set -e
eval "$SETUP"
exec sh "$@"`
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "--propagation", "private", "bash", "-c", inside, "host", path}, args...)...)
	cmd.Env = append([]string{"PATH=" + h.dir + ":/usr/sbin:/usr/bin:/sbin:/bin", "LOG=" + log, "HOST=" + h.dir, "SETUP=" + h.setup}, env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	line, err2 := os.ReadFile(log)
	if err2 != nil {
		t.Fatal(err2)
	}
	return strings.TrimSpace(string(line)), string(out), err == nil
}

const (
	withSystemd = `mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system`
	withProcd   = `mount --bind "$HOST/init.d" /etc/init.d`
)

// TestScriptsOfPackages: what each does when, and that what cannot be detached is not removed.
func TestScriptsOfPackages(t *testing.T) {
	const cannot = "FAIL_torbpf_detach=1"
	for _, c := range []struct {
		script, args string
		env          string
		want         string // asked, in one line
		fails        bool
	}{
		{script: "rpm-post", args: "1", want: "systemctl daemon-reload"},
		{script: "rpm-post", args: "2", want: "systemctl daemon-reload; systemctl try-restart torbpf.service"},
		{script: "rpm-preun", args: "1"},
		{script: "rpm-preun", args: "0", want: "systemctl stop torbpf.service; torbpf detach --all; systemctl --no-reload disable torbpf.service"},
		{script: "rpm-preun", args: "0", env: "FAIL_torbpf_detach=3", want: "systemctl stop torbpf.service; torbpf detach --all; systemctl --no-reload disable torbpf.service"},
		{script: "rpm-preun", args: "0", env: cannot, want: "systemctl stop torbpf.service; torbpf detach --all", fails: true},
		{script: "rpm-postun", args: "0", want: "systemctl daemon-reload"},
		{script: "alpine-post-upgrade", want: "rc-service --ifstarted torbpf restart"},
		{script: "alpine-pre-deinstall", want: "rc-service --ifstarted torbpf stop; torbpf detach --all; rc-update --all --quiet delete torbpf"},
		{script: "alpine-pre-deinstall", env: cannot, want: "rc-service --ifstarted torbpf stop; torbpf detach --all", fails: true},
		{script: "openwrt-postinst", args: "configure", env: "FAIL_torbpf_running=1", want: "torbpf running"},
		{script: "openwrt-postinst", args: "configure", want: "torbpf running; torbpf restart"},
		{script: "openwrt-postinst", env: "IPKG_INSTROOT=/image"},
		{script: "openwrt-prerm", args: "upgrade"},
		{script: "openwrt-prerm", args: "remove", want: "torbpf stop; torbpf detach --all; torbpf disable"},
		{script: "openwrt-prerm", want: "torbpf stop; torbpf detach --all; torbpf disable"},
		{script: "openwrt-prerm", args: "remove", env: cannot, want: "torbpf stop; torbpf detach --all", fails: true},
		{script: "deb-prerm", args: "upgrade 1.0.1-1"},
		{script: "deb-prerm", args: "remove", want: "deb-systemd-invoke stop torbpf.service; torbpf detach --all"},
		{script: "deb-postinst", args: "configure"},
		{script: "deb-postinst", args: "configure 1.0.0-1", want: "systemctl --system daemon-reload; deb-systemd-invoke try-restart torbpf.service"},
	} {
		t.Run(c.script+" "+c.args+" "+c.env, func(t *testing.T) {
			h := newHost(t, "torbpf", "systemctl", "deb-systemd-invoke", "rc-service", "rc-update", "init.d/torbpf")
			if strings.HasPrefix(c.script, "openwrt") {
				h.setup = withProcd
			} else {
				h.setup = withSystemd
			}
			asked, says, ok := h.run(t, script(t, c.script), strings.Fields(c.env), strings.Fields(c.args)...)
			if got := strings.ReplaceAll(asked, "\n", "; "); got != c.want || ok == c.fails {
				t.Errorf("asked %q, want %q; succeeded: %v; %s", got, c.want, ok, says)
			}
			if c.fails && !strings.Contains(says, "torbpf is not removed") {
				t.Errorf("it says %s", says)
			}
		})
	}
}

// TestAChrootIsLeftAlone: what is removed from an image does not detach the host.
func TestAChrootIsLeftAlone(t *testing.T) {
	h := newHost(t, "torbpf", "systemctl", "deb-systemd-invoke")
	h.setup = withSystemd + `
mkdir /run/image
mount -t tmpfs tmpfs /run/image
mkdir -p /run/image/usr /run/image/proc /run/image/run/systemd/system "/run/image$HOST"
for part in usr proc "$HOST"; do mount --rbind "/${part#/}" "/run/image/${part#/}"; done
for part in bin sbin lib lib64; do ln -s "usr/$part" "/run/image/$part"; done
exec chroot /run/image sh "$@"`
	for _, name := range []string{"deb-prerm", "rpm-preun"} {
		for _, args := range []string{"remove", "0"} {
			if asked, says, ok := h.run(t, script(t, name), nil, args); asked != "" || !ok {
				t.Errorf("%s %s: asked %q: %s", name, args, asked, says)
			}
		}
	}
}

// rcCommon is as much of OpenWrt's /etc/rc.common as the script needs: it notes what it is told
// to start, and calls the function that is asked for.
const rcCommon = `procd_open_instance() { echo "instance" >>"$LOG"; }
procd_set_param() { echo "$*" >>"$LOG"; }
procd_close_instance() { echo "end" >>"$LOG"; }
procd_send_signal() { echo "signal $*" >>"$LOG"; }
set -f
. "$1"
"${2}_service"
`

// TestTheServiceUnderProcd: the script blocks before it has anything started, keeps what is
// blocked where a boot finds it, and comes before the network.
func TestTheServiceUnderProcd(t *testing.T) {
	text, err := os.ReadFile("openwrt/torbpf.in")
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, "torbpf")
	for from, to := range map[string]string{"@SBINDIR@": h.dir, "/var/lib/torbpf": h.dir + "/memory", "/etc/torbpf": h.dir + "/flash"} {
		text = []byte(strings.ReplaceAll(string(text), from, to))
	}
	service, guarded, kept := filepath.Join(h.dir, "service"), filepath.Join(h.dir, "memory/host/guarded.json"), filepath.Join(h.dir, "flash/guarded.json")
	if err := os.WriteFile(service, text, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		text, _ := os.ReadFile(path)
		return string(text)
	}
	const started = "torbpf run --block-only; instance; command torbpf run; respawn 3600 5 0; limits core=0; stdout 1; stderr 1; end"
	ask := func(env []string, function, want string) {
		t.Helper()
		asked, says, _ := h.run(t, rcCommon, env, service, function)
		if got := strings.ReplaceAll(strings.ReplaceAll(asked, h.dir+"/", ""), "\n", "; "); got != want {
			t.Errorf("%s: asked %q, want %q: %s", function, got, want, says)
		}
	}
	write(guarded, "eth1")
	ask(nil, "start", started)
	if got := read(kept); got != "eth1" {
		t.Errorf("kept: %q", got)
	}
	ask(nil, "reload", "signal torbpf * HUP")
	write(guarded, "eth1, eth2")
	ask(nil, "stop", "")
	if got := read(kept); got != "eth1, eth2" {
		t.Errorf("kept at the end: %q", got)
	}
	// A boot with a configuration that cannot be used: what was kept is there to be blocked.
	if err := os.RemoveAll(filepath.Join(h.dir, "memory")); err != nil {
		t.Fatal(err)
	}
	ask([]string{"FAIL_torbpf_run=2"}, "start", "torbpf run --block-only")
	if got := read(guarded); got != "eth1, eth2" {
		t.Errorf("found at the boot: %q", got)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", `. "$1"; echo "$START $USE_PROCD"`, "sh", service).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "19 1" {
		t.Errorf("it starts as %s (%v), want before 20 and by procd", out, err)
	}
}
