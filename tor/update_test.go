package tor

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// sameProcess updates a tor that must not be restarted for it.
func sameProcess(t *testing.T, d *Daemon, o Options) {
	t.Helper()
	pid := d.PID()
	restarted, err := d.Update(deadline(t, 30*time.Second), o)
	if err != nil || restarted || d.PID() != pid || !d.Alive() {
		t.Fatalf("restarted: %v, process %d → %d, alive: %v, %v", restarted, pid, d.PID(), d.Alive(), err)
	}
	wantTorrc(t, o)
}

// wantTorrc checks that the file says what tor was told, and nothing is beside it.
func wantTorrc(t *testing.T, o Options) {
	t.Helper()
	x, err := readExtra(o.ExtraTorrc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(o.torrcPath())
	if err != nil || string(got) != o.torrc(x, true) {
		t.Errorf("the torrc is not that of the options: %v\n%s", err, got)
	}
	if _, err := os.Stat(o.nextPath()); err == nil {
		t.Error("a torrc that is not used lies about")
	}
}

// conf asks a running tor for an option.
func conf(t *testing.T, d *Daemon, option string) []string {
	t.Helper()
	c, err := d.Dial(deadline(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	values, err := c.GetConf(deadline(t, 5*time.Second), option)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestUpdateKeepsTheProcess(t *testing.T) {
	o := options(t)
	d := started(t, o)
	sameProcess(t, d, o)

	o.AllowFrom = append(o.AllowFrom, netip.MustParsePrefix("10.99.0.0/24"))
	sameProcess(t, d, o)
	if a, err := query(t, "10.99.0.1", "10.99.0.1:9053", dnsmessage.TypeA); err != nil || !o.Onion4.Contains(a) {
		t.Errorf("a source that was added: %v, %v", a, err)
	}

	o.Ports.Trans, o.Ports.DNS = 9140, 9153
	sameProcess(t, d, o)
	if _, err := query(t, "127.0.0.1", "127.0.0.1:9153", dnsmessage.TypeA); err != nil {
		t.Errorf("the new DNSPort: %v", err)
	}
	if _, err := query(t, "127.0.0.1", "127.0.0.1:9053", dnsmessage.TypeA); err == nil {
		t.Error("the old DNSPort is open")
	}

	o.Onion4 = netip.MustParsePrefix("172.16.0.0/13")
	sameProcess(t, d, o)
	if a, err := query(t, "127.0.0.1", "127.0.0.1:9153", dnsmessage.TypeA); err != nil || !o.Onion4.Contains(a) {
		t.Errorf("a name under .onion is still in the old range: %v, %v", a, err)
	}

	o.ExtraTorrc = extra(t, "BandwidthRate 1 MB", "SocksPort 127.0.0.1:9150")
	sameProcess(t, d, o)
	if got := conf(t, d, "SocksPort"); !slices.Equal(got, []string{"127.0.0.1:9150"}) {
		t.Errorf("SocksPort %q", got)
	}
	// A reload by somebody else, such as logrotate, must change nothing.
	if err := unix.Kill(d.PID(), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := conf(t, d, "BandwidthRate"); !d.Alive() || !slices.Equal(got, []string{"1048576"}) {
		t.Errorf("alive after a reload: %v; BandwidthRate %q", d.Alive(), got)
	}
}

func TestUpdateRestartsForWhatTorCannotChange(t *testing.T) {
	o := options(t)
	d := started(t, o)
	for name, change := range map[string]func(){
		"data directory": func() { o.DataDir += "2" },
		"user's option":  func() { o.ExtraTorrc = extra(t, "DisableAllSwap 0", "KeepBindCapabilities 0", "Sandbox 1") },
	} {
		change()
		pid := d.PID()
		restarted, err := d.Update(deadline(t, 30*time.Second), o)
		if err != nil || !restarted || d.PID() == pid || !d.Alive() {
			t.Fatalf("%s: restarted: %v, process %d → %d, alive: %v, %v", name, restarted, pid, d.PID(), d.Alive(), err)
		}
		wantTorrc(t, o)
	}
	if err := unix.Kill(d.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the killed tor is gone", func() bool { return !d.Alive() })
	if restarted, err := d.Update(deadline(t, 30*time.Second), o); err != nil || !restarted || !d.Alive() {
		t.Errorf("after its death: restarted: %v, %v", restarted, err)
	}
}

func TestAnUpdateThatFailsChangesNothing(t *testing.T) {
	good := options(t)
	d := started(t, good)
	pid := d.PID()
	taken, err := net.Listen("tcp", "[::]:9777")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := map[string]struct {
		change func(o *Options)
		want   []string
	}{
		"port taken": {func(o *Options) { o.Ports.Trans = 9777 }, []string{":9777 (TransPort, TCP): Address already in use"}},
		"bad line":   {func(o *Options) { o.ExtraTorrc = extra(t, "ContactInfo x", "Foo bar") }, []string{":2: tor refuses", "Unknown option 'Foo'"}},
		"bad line that needs a restart": {func(o *Options) { o.ExtraTorrc = extra(t, "Sandbox 1", "Foo bar"); o.DataDir += "3" },
			[]string{":2: tor refuses"}},
		"no program": {func(o *Options) { o.Binary = "/nonexistent/tor" }, []string{"apt install tor"}},
		"elsewhere":  {func(o *Options) { o.Dir += "x" }, []string{"its state is in"}},
	}
	for name, tt := range bad {
		o := good
		tt.change(&o)
		restarted, err := d.Update(deadline(t, 30*time.Second), o)
		wantError(t, err, tt.want...)
		if restarted || !d.Alive() || d.PID() != pid {
			t.Errorf("%s: restarted: %v, process %d → %d, alive: %v", name, restarted, pid, d.PID(), d.Alive())
		}
		wantTorrc(t, good)
		if _, err := query(t, "127.0.0.1", "127.0.0.1:9053", dnsmessage.TypeA); err != nil {
			t.Errorf("%s: it does not answer any more: %v", name, err)
		}
		// Not by connecting: see TestTorServesTheLANAndNobodyElse.
		for _, at := range []string{"127.0.0.1:9040", "[::1]:9040"} {
			if l, err := net.Listen("tcp", at); err == nil {
				t.Errorf("%s: TransPort is closed at %s", name, at)
				l.Close()
			}
		}
	}
	// Killed between telling tor and noting it: the next update must not
	// believe the torrc.
	if err := os.WriteFile(good.nextPath(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := good
	other.AllowFrom = nil
	x, _ := readExtra("")
	if err := d.load(deadline(t, 5*time.Second), other.torrc(x, true)); err != nil {
		t.Fatal(err)
	}
	sameProcess(t, d, good)
	if _, err := query(t, "127.0.0.1", "127.0.0.1:9053", dnsmessage.TypeA); err != nil {
		t.Errorf("tor runs with a configuration that is not its torrc: %v", err)
	}
	if err := os.Remove(good.torrcPath()); err != nil {
		t.Fatal(err)
	}
	sameProcess(t, d, good)
}
