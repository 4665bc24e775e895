package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// unpackBundle reads the files of a bundle.
func unpackBundle(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, "torbpf-bundle/")] = string(text)
	}
}

// bridgeLine is one that a user would rather not show.
const bridgeLine = "Bridge obfs4 198.41.0.4:9001 0123456789ABCDEF0123456789ABCDEF01234567 cert=c2VjcmV0LW9mLWEtYnJpZGdl iat-mode=0"

func hostname(t *testing.T) string {
	t.Helper()
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// appendTo adds a line to a file that is there.
func appendTo(t *testing.T, path string, words ...any) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(f, words...)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// awayFromUTC has this machine's clock be five hours and a half off, as in India, whatever time
// zones it knows (tzfile(5)).
func awayFromUTC(t *testing.T) {
	t.Helper()
	const offset = 5*3600 + 1800
	zone := append([]byte("TZif"), make([]byte, 16+5*4-4)...)
	zone = append(zone, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(zone[36:], 1) // one kind of time
	zone = append(zone, 0, 0, 0, 4)          // and four bytes of names
	zone = binary.BigEndian.AppendUint32(zone, offset)
	zone = append(zone, 0, 0, 'I', 'S', 'T', 0)
	path := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(path, zone, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", path)
}

// plantGone leaves in the logs what is no more, and returns it: rules, a device's name, places, and a
// bridge that only the configuration has.
func plantGone(t *testing.T, lab *testnet.Lab) []string {
	t.Helper()
	list := filepath.Join(t.TempDir(), "lists", "ruritania.txt")
	if err := os.MkdirAll(filepath.Dir(list), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, []byte("203.0.113.0/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := lab.Client2.MAC.String()
	for _, args := range [][]string{
		{"exclude", "add", "203.0.113.7", "--comment", "Anna Schmidt lawyer Mueller"},
		{"exclude", "del", "203.0.113.7"},
		{"device", "name", second, "ingrids-tablet"},
		{"device", "block", "ingrids-tablet", "--for", "1h"},
		{"device", "tor", "ingrids-tablet"},
		{"device", "name", second},
		{"exclude", "add", "--list", list},
	} {
		mustTorbpf(t, lab, args...)
	}
	appendTo(t, filepath.Join(stateDir(t, lab), "events.jsonl"), `{"time":"2026-11-27T14:05:24+05:30","kind":"tor","text":"new circuits","device":"jonas-laptop","packet":null,"rule":null}`)
	return []string{
		"Schmidt", "lawyer", "Mueller", "ingrid", "jonas", "ruritania", "ottos", "mybank", "eyJhbm5h", "klara", ":7443", "192.168.9.9",
		"+05:30", "+0530",
	}
}

// plantSecrets puts secrets of every kind where a bundle could have them from, and lists them in
// the notations that they may have.
func plantSecrets(t *testing.T, lab *testnet.Lab) []string {
	t.Helper()
	t.Setenv("SUDO_USER", "carla-of-sudo")
	own := hostname(t)
	mac := lab.Client1.MAC.String()
	gone := plantGone(t, lab)
	for _, args := range [][]string{
		{"device", "name", mac, "annas-phone"},
		{"exclude", "add", "51.21.0.0/16", "--comment", "homework of Berta"},
		{"exclude", "add", "2a0e:21::/32"},
		{"exclude", "add", "--domain", "bank-of-anna.example", "--resolver", testnet.Resolver4.String()},
		{"device", "allow", "annas-phone", "--for", "1h"},
	} {
		mustTorbpf(t, lab, args...)
	}
	changed([]string{
		"nft add table inet mine", "nft add set inet mine annas-phone_addrs { type ipv4_addr ; }", "nft add element inet mine annas-phone_addrs { 51.20.0.80 }",
		"nft add chain inet mine in { type filter hook input priority 5 ; }",
		`nft add rule inet mine in ip saddr 51.20.0.80 counter comment "dora-knows"`, `nft add rule inet mine in ether saddr 02:00:00:00:50:99 log prefix "emil-logs "`,
		"nft add rule inet mine in @nh,96,32 0x33140050 counter",
		"ip route add 62.99.0.0/16 via " + testnet.WANISP4.String(), "ip link add enx0200000050ab type veth peer name v9", "ip link set v9 alias frieda-has-this",
		"ip rule add from 62.99.7.7 lookup main priority 9000",
		"ip netns add ottos-vault", "ip link add v7 type veth peer name v8 netns ottos-vault",
	}, []string{"ip netns del ottos-vault", "nft delete table inet mine", "ip route del 62.99.0.0/16", "ip link del v9", "ip rule del priority 9000"})(t, lab)
	appendTo(t, filepath.Join(stateDir(t, lab), "sentry.log"), bridgeLine+"\n",
		"p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd.onion gustav@mail.example.net /home/hedwig/x", own, "carla-of-sudo www.example.org\n",
		"pigeon 192.168.9.9:7443 a=klaras-secret\napp-mybank-1.scope sqscreds=eyJhbm5h")
	bare := func(mac string) string { return strings.ReplaceAll(mac, ":", "") }
	secrets := append(gone,
		"annas-phone", "Berta", "homework", "bank-of-anna", "dora", "emil", "frieda", "carla", "gustav", "hedwig",
		"p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd", "example.org", "mail.example", "51.20.0.80", "51.21.0", "2a0e:21", "62.99.", "33140050",
		testnet.WANRouter4.String(), testnet.WANISP4.String(), testnet.Resolver4.String(), "2a0c:10", "2a0d:50", "fd50::", "198.41.0.4",
		"0123456789ABCDEF", "c2VjcmV0LW9mLWEtYnJpZGdl", "0200000050ab", "02:00:00:00:50:99",
	)
	for _, mac := range []string{mac, testnet.MACLAN, testnet.MACWAN} {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		// also as the end of an address that is made of it (RFC 4291, appendix A)
		secrets = append(secrets, mac, bare(mac), fmt.Sprintf("ff:fe%02x:%x", hw[3], int(hw[4])<<8|int(hw[5])))
	}
	return secrets
}

// TestABundleHasNoSecrets: none that was planted, in any file; what is no secret is there, and
// the same device is the same word in all of them.
func TestABundleHasNoSecrets(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	torrc := filepath.Join(lab.Dir(), "bridges")
	lone, err := os.ReadFile(loneTorrc(t, lab))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(torrc, append(lone, "\n# "+bridgeLine+"\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	awayFromUTC(t)
	program := filepath.Join(lab.Dir(), "pigeon")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	attach(t, lab, lan, "--no-wait", "--torrc", torrc, "--bridge", "pigeon 192.168.9.9:7443 a=klaras-secret", "--transport", "pigeon="+program)
	secrets := plantSecrets(t, lab)
	path := filepath.Join(lab.Dir(), "bundle.tar.gz")
	if r := runTorbpf(t, lab, "doctor", "--bundle", path); r.code != 1 || !strings.Contains(r.stderr, "look through it") {
		t.Fatalf("a lab without Tor: %v", r)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle: %v, %v", info, err)
	}
	files := unpackBundle(t, path)
	own := regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(hostname(t)) + `\b`) // it may be short, and within a word of nft's
	for name, text := range files {
		if own.MatchString(text) {
			t.Errorf("%s has the name of this host: %.2000s", name, text)
		}
		for _, secret := range secrets {
			if i := strings.Index(strings.ToLower(text), strings.ToLower(secret)); i >= 0 {
				t.Errorf("%s has %q: …%s…", name, secret, text[max(0, i-60):min(len(text), i+60)])
			}
		}
	}
	for name, wants := range map[string][]string{
		"doctor.json": {`"tor-ready"`}, "status.json": {`"interfaces"`, "name-"}, "state.json": {"device-1", "comment-", "name-"}, "versions.txt": {"\ntor 0."},
		"nft.txt": {"table inet torbpf", "table inet mine", `comment "comment-`, "_addrs"}, "ip-rule.txt": {"from ip4-"}, "ip-route.txt": {"via ip4-", "192.168.50.0/24"},
		"ip-link.txt": {"link/ether mac-", "eth1"}, "maps.txt": {"counters", "Hash"}, "plan.txt": {"lan eth1"}, "logs/sentry.log": {"bridge-", "onion-1", "/home/user-"}, "logs/events.jsonl": {"policy"},
		"logs/audit.log": {"Z ", " (comment-", "removed destination"}, "README.txt": {"before you post it", "tables, chains and sets"},
	} {
		for _, want := range wants {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s has no %q: %.2000s", name, want, files[name])
			}
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := runTorbpf(t, lab, "doctor", "--bundle", path); r.code != 1 || !strings.Contains(r.stderr, "remove it, or choose another name") {
		t.Errorf("over one that is there: %v", r)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("it was overwritten: %v", err)
	}
}
