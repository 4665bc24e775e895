package tor

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/torbpf/torbpf/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update if that is right:\n%s", path, diff)
	}
}

func exampleOptions() Options {
	return Options{
		Dir:     "/run/torbpf/default/tor",
		DataDir: "/var/lib/torbpf/default/tor",
		Ports:   plan.Ports{Trans: 9040, DNS: 9053, Resolver: 9054},
		Onion4:  netip.MustParsePrefix("10.192.0.0/10"),
		Onion6:  netip.MustParsePrefix("fd3a:9c1e:77::/48"),
		AllowFrom: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
			netip.MustParsePrefix("192.168.7.1/24"), netip.MustParsePrefix("fd07::1/64"),
		},
	}
}

func TestTorrcOfAManagedTor(t *testing.T) {
	o := exampleOptions()
	golden(t, "torrc", o.torrc(nil, true))
	golden(t, "torrc-without-ipv6", o.torrc(nil, false))
	handed := o
	handed.TProxy = true
	golden(t, "torrc-tproxy", handed.torrc(nil, true))

	x, err := parseExtra("/etc/torbpf/bridges.torrc", []byte("# from a friend\nUseBridges 1\n"+
		"Bridge obfs4 192.0.2.7:443 \\\n  cert=abc iat-mode=0\nSocksPort 127.0.0.1:9150"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "torrc-with-lines-of-the-user", o.torrc(x, true))
}

func TestLinesThatUndoOursAreRefused(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"own option":            {"Nickname x\n\nDataDirectory /tmp", "f:3: DataDirectory is set by torbpf"},
		"any case":              {"sockspolicy accept *", "f:1: sockspolicy is set by torbpf"},
		"added to a list":       {"+TransPort 9999", "f:1: +TransPort is set by torbpf"},
		"list emptied":          {"/SocksPolicy", "f:1: /SocksPolicy is set by torbpf"},
		"tab":                   {"User\troot", "is set by torbpf"},
		"older name":            {"VirtualAddrNetwork 10.0.0.0/8", "is set by torbpf"},
		"range":                 {"VirtualAddrNetworkIPv6 [fc00::]/7", "is set by torbpf"},
		"other files":           {"%include /etc/torrc.d/*.conf", "f:1: %include is not possible"},
		"swallows the next":     {"Nickname x\nContactInfo a\\", "f:2: the last line ends in a backslash"},
		"comment in the middle": {"ContactInfo a\\\n# b", "ends in a backslash"},
		"zero byte":             {"Nickname x\nContactInfo a\x00b", "f:2: a zero byte"},
		"log to a terminal":     {"Log debug stdout", "use Log debug file PATH"},
		"behind a continuation": {"ContactInfo a\\\nb\nPidFile /x", "f:3: PidFile is set by torbpf"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parseExtra("f", []byte(tt.text))
			wantError(t, err, tt.want)
		})
	}
}

func TestLinesOfTheUserAreKept(t *testing.T) {
	text := "# a comment \\\n\nUseBridges 1\r\nBridge 192.0.2.1:443 \\\n# within\n AAAA\n+Log info file /var/log/x\nSocksPort 9050 # mine"
	x, err := parseExtra("f", []byte(text+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var numbers []int
	for _, l := range x.lines {
		got = append(got, l.key)
		numbers = append(numbers, l.number)
	}
	if diff := cmp.Diff([]string{"", "", "usebridges", "bridge", "log", "socksport"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 4, 7, 8}, numbers); diff != "" {
		t.Error(diff)
	}
	if rc := exampleOptions().torrc(x, true); !strings.Contains(rc, strings.ReplaceAll(text, "\r", "")+"\n") {
		t.Errorf("the lines are not all in:\n%s", rc)
	}
}

// TestATorBesideAnotherHasNothingThatOnlyOneCanHave of the user's lines, such as a port.
func TestATorBesideAnotherHasNothingThatOnlyOneCanHave(t *testing.T) {
	x, err := parseExtra("f", []byte("UseBridges 1\nSocksPort 9050\n+Log info file /var/log/x\nHiddenServiceDir /srv/onion\nHiddenServicePort 80 \\\n 127.0.0.1:80\nControlPort 9051\nNickname x\n"))
	if err != nil {
		t.Fatal(err)
	}
	o := exampleOptions()
	o.Beside = true
	rc := o.torrc(x, true)
	for line, want := range map[string]bool{
		"UseBridges 1\n": true, "Nickname x\n": true, "SocksPort 0\n": true,
		"9050": false, "/var/log/x": false, "HiddenService": false, "127.0.0.1:80": false, "9051": false,
	} {
		if strings.Contains(rc, line) != want {
			t.Errorf("%q is in it: %t, want %t\n%s", line, !want, want, rc)
		}
	}
}

func TestAFileThatIsNoTorrcIsRefused(t *testing.T) {
	dir := place(t)
	sh(t, "mkfifo "+dir+"/fifo; head -c 300000 /dev/zero | tr '\\0' '#' >"+dir+"/big")
	for name, want := range map[string]string{"fifo": "is not a file", "big": "larger than", "none": "no such file", ".": "is not a file"} {
		_, err := readExtra(filepath.Join(dir, name))
		wantError(t, err, want)
	}
}

// Whatever the spelling, tor must end up with our lines: it knows abbreviations
// of options that no check of ours can list.
func TestTorObeysOurLinesNotTheUsers(t *testing.T) {
	o := options(t)
	x, err := parseExtra("f", []byte("SocksPolic accept *\nTransPor 9999\nAutomapHostsOnResolv 0\nCookieAuthenticatio 0\nBandwidthRate 5 MB\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{o.Dir, o.runDir(), o.DataDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(o.torrcPath(), []byte(o.torrc(x, true)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tor", torArgs(o.torrcPath(), "--dump-config", "short", "--hush")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[key] = append(got[key], value)
	}
	want := map[string][]string{}
	for _, d := range o.directives(true) {
		want[d.key] = append(want[d.key], d.value)
	}
	for _, isDefault := range []string{"RunAsDaemon", "TransProxyType", "CacheDirectory"} {
		delete(want, isDefault)
	}
	for key, values := range want {
		if diff := cmp.Diff(values, got[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if diff := cmp.Diff([]string{"5242880"}, got["BandwidthRate"]); diff != "" {
		t.Errorf("the user's own option is lost: %s", diff)
	}
}
