package router

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/doctor"
	"github.com/torbpf/torbpf/internal/plan"
)

const uidNobody = 65534

// startTimeService runs a program of that name which does nothing, and returns when it is there.
func startTimeService(t *testing.T, name string, uid uint32) {
	t.Helper()
	cat, err := os.ReadFile("/bin/cat")
	must(t, err)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // which no other user may enter
	file := filepath.Join(dir, name)
	must(t, os.WriteFile(file, cat, 0o755))
	cmd := exec.Command(file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	_, err = in.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadFull(out, make([]byte, 1))
	must(t, err)
}

// TestTheTimeServiceThatRunsIsWarnedOf: by the account that it runs as, until a rule lets it out.
func TestTheTimeServiceThatRunsIsWarnedOf(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	direct := func(kind config.Kind, id plan.Identity) *plan.Client {
		id.Kind, id.Policy = kind, config.PolicyDirect
		return &plan.Client{All: true, Identities: []plan.Identity{id}}
	}
	port := func(protocol uint8, port uint16) *plan.Client {
		service := config.Service{Protocol: protocol, Port: port}
		return &plan.Client{All: true, Rules: config.Rules{{Policy: config.PolicyDirect, Entry: config.Entry{Kind: config.KindPort, Client: true, Service: service}}}}
	}
	warning := func(c *plan.Client) string {
		return strings.Join(doctor.Strings(timeServiceAdvice(&plan.Plan{Client: c})), "; ")
	}
	if w := warning(&plan.Client{All: true}); w != "" {
		t.Errorf("where none runs: %s", w)
	}
	startTimeService(t, "ntpd", 0)
	if w := warning(&plan.Client{All: true}); !strings.HasSuffix(w, "exclude add --client --port 123/udp") {
		t.Errorf("where root's runs: %s", w)
	}
	startTimeService(t, "chronyd", uidNobody)
	for name, c := range map[string]struct {
		client *plan.Client
		warns  bool
	}{
		"no rule":                     {&plan.Client{All: true}, true},
		"its user":                    {direct(config.KindUser, plan.Identity{User: uidNobody}), false},
		"the account of another":      {direct(config.KindUser, plan.Identity{User: 1}), true},
		"a rule that has ended":       {direct(config.KindUser, plan.Identity{User: uidNobody, Ends: 1}), true},
		"its port":                    {port(config.ProtocolUDP, config.PortNTP), false},
		"the same port of TCP":        {port(config.ProtocolTCP, config.PortNTP), true},
		"another port":                {port(config.ProtocolUDP, config.PortDNS), true},
		"a user beside whose it runs": {direct(config.KindUser, plan.Identity{User: 0}), true},
	} {
		w := warning(c.client)
		if warned := w != ""; warned != c.warns || warned && !strings.HasSuffix(w, "exclude add --user nobody") {
			t.Errorf("%s: %q", name, w)
		}
	}
}
