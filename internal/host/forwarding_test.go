package host

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settings reads all that changing forwarding may touch.
func settings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{
		"net/ipv4/ip_forward", "net/ipv4/conf/*/forwarding", "net/ipv4/conf/*/accept_redirects",
		"net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/accept_ra", "net/ipv6/conf/*/accept_redirects",
	} {
		paths, err := filepath.Glob(filepath.Join(procSys, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no setting matches %s (%v)", pattern, err)
		}
		for _, path := range paths {
			name := strings.TrimPrefix(path, procSys+"/")
			all[name] = get(t, name)
		}
	}
	return all
}

const uplinks = `
ip link add wan0 type bridge
ip link add wan0.5 type bridge
ip link add lan0 type bridge
`

// forwardingOff is the state of a machine that is no router yet.
func forwardingOff(t *testing.T) {
	t.Helper()
	set(t, "net.ipv4.ip_forward", "0")
	set(t, "net.ipv6.conf.all.forwarding", "0")
}

func TestEnableForwardingIsUndoneByRestore(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare map[string]string
		changed map[string]string // what must have been recorded
	}{
		{
			name: "nothing forwards",
			changed: map[string]string{
				"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0",
				"net/ipv6/conf/wan0/accept_ra": "1", "net/ipv6/conf/wan0.5/accept_ra": "1",
			},
		},
		{
			name:    "accept_ra decided by the user",
			prepare: map[string]string{"net/ipv6/conf/wan0/accept_ra": "0", "net/ipv6/conf/wan0.5/accept_ra": "2"},
			changed: map[string]string{"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"},
		},
		{
			name: "some interfaces forward",
			prepare: map[string]string{
				"net/ipv4/conf/lan0/forwarding": "1", "net/ipv4/conf/default/forwarding": "1",
				"net/ipv6/conf/wan0.5/forwarding": "1", "net.ipv4.conf.all.accept_redirects": "0",
				"net/ipv6/conf/wan0.5/accept_ra": "0",
			},
			changed: map[string]string{
				"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0",
				"net/ipv4/conf/lan0/forwarding": "1", "net/ipv4/conf/default/forwarding": "1",
				"net/ipv6/conf/wan0.5/forwarding": "1", "net.ipv4.conf.all.accept_redirects": "0",
				"net/ipv6/conf/wan0/accept_ra": "1",
			},
		},
		{
			name:    "IPv4 forwards",
			prepare: map[string]string{"net.ipv4.ip_forward": "1"},
			changed: map[string]string{
				"net.ipv6.conf.all.forwarding": "0",
				"net/ipv6/conf/wan0/accept_ra": "1", "net/ipv6/conf/wan0.5/accept_ra": "1",
			},
		},
		{
			name:    "both forward",
			prepare: map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"},
			changed: map[string]string{},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enterNamespace(t)
			run(t, uplinks)
			forwardingOff(t)
			for name, value := range tt.prepare {
				set(t, name, value)
			}
			before := settings(t)

			recorded := map[string]string{}
			record := func(name, old string) error {
				if now := get(t, name); now != old {
					t.Errorf("%s was recorded as %s and is already %s", name, old, now)
				}
				recorded[name] = old
				return nil
			}
			if err := EnableForwarding([]string{"wan0", "wan0.5", "not-there"}, record); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.changed, recorded); diff != "" {
				t.Errorf("recorded differs (-want +got):\n%s", diff)
			}
			if v4, v6, err := ForwardingEnabled(); !v4 || !v6 || err != nil {
				t.Errorf("ForwardingEnabled() = %v, %v, %v", v4, v6, err)
			}
			if err := EnableForwarding([]string{"wan0"}, func(name, _ string) error {
				return errors.New("recorded " + name)
			}); err != nil {
				t.Errorf("a second call changes something: %v", err)
			}
			if err := Restore(recorded); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, settings(t)); diff != "" {
				t.Errorf("settings after Restore differ (-before +after):\n%s", diff)
			}
		})
	}
}

// The router's own default route goes at the moment forwarding comes, unless
// accept_ra was 2 before.
func TestAcceptRAChangesBeforeForwarding(t *testing.T) {
	enterNamespace(t)
	run(t, uplinks)
	forwardingOff(t)
	var order []string
	err := EnableForwarding([]string{"wan0"}, func(name, _ string) error {
		if name == forwarding6 {
			order = append(order, "accept_ra="+get(t, "net/ipv6/conf/wan0/accept_ra"))
		}
		return nil
	})
	if err != nil || len(order) != 1 || order[0] != "accept_ra=2" {
		t.Errorf("EnableForwarding() = %v with %v, want accept_ra=2 before forwarding", err, order)
	}
}

func TestNothingChangesThatCannotBeRecorded(t *testing.T) {
	for _, refuse := range []string{
		"net.ipv4.ip_forward", "net/ipv6/conf/wan0/accept_ra", "net.ipv6.conf.all.forwarding",
	} {
		enterNamespace(t)
		run(t, uplinks)
		forwardingOff(t)
		before := settings(t)
		full := errors.New("disk full")
		recorded := map[string]string{}
		err := EnableForwarding([]string{"wan0"}, func(name, old string) error {
			if name == refuse {
				return full
			}
			recorded[name] = old
			return nil
		})
		if !errors.Is(err, full) {
			t.Errorf("EnableForwarding() = %v, want the error of record", err)
		}
		if err := Restore(recorded); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, settings(t)); diff != "" {
			t.Errorf("refusing %s left a change (-before +after):\n%s", refuse, diff)
		}
	}
}

func TestRestoreToleratesInterfacesThatAreGone(t *testing.T) {
	enterNamespace(t)
	forwardingOff(t)
	set(t, "net.ipv4.ip_forward", "1")
	values := map[string]string{"net/ipv6/conf/gone/accept_ra": "1", "net.ipv4.ip_forward": "0"}
	given := maps.Clone(values)
	if err := Restore(values); err != nil {
		t.Error(err)
	}
	if got := get(t, "net.ipv4.ip_forward"); got != "0" {
		t.Errorf("ip_forward = %s", got)
	}
	if !maps.Equal(values, given) {
		t.Error("Restore changed its argument")
	}
}

func TestForwardingWithoutIPv6(t *testing.T) {
	enterNamespace(t)
	set(t, "net.ipv4.ip_forward", "0")
	hide(t, "/proc/sys/net/ipv6")
	if err := EnableForwarding([]string{"lo"}, func(string, string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if v4, v6, err := ForwardingEnabled(); !v4 || v6 || err != nil {
		t.Errorf("ForwardingEnabled() = %v, %v, %v", v4, v6, err)
	}
}

func TestSysctlNames(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":             "/proc/sys/net/ipv4/ip_forward",
		"net/ipv6/conf/eth0.5/forwarding": "/proc/sys/net/ipv6/conf/eth0.5/forwarding",
		"net/../../etc/passwd":            "",
		"/etc/passwd":                     "",
		"":                                "",
	} {
		got, err := sysctlPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("sysctlPath(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := Sysctl("net.ipv4.no_such_setting"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing setting gives %v, want os.ErrNotExist", err)
	}
	if err := SetSysctl("net.ipv4.no_such_setting", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("setting a missing setting gives %v, want os.ErrNotExist", err)
	}
}
