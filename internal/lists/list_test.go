package lists

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// write puts text into a new file and returns its path.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "de.txt")
	overwrite(t, path, text)
	return path
}

func overwrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// list reads text as a list that lies nowhere.
func list(t testing.TB, text string) *List {
	t.Helper()
	l := &List{Path: "de.txt"}
	if err := l.fill(strings.NewReader(text), int64(len(text))); err != nil {
		t.Fatal(err)
	}
	return l
}

func words(prefixes []netip.Prefix) string { return strings.Trim(fmt.Sprint(prefixes), "[]") }

func TestListsReadAsPublished(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		entries int
		want    string
	}{
		"one a line":        {"1.2.3.0/24\n5.6.7.8\n2001:db8::/32\n", 3, "1.2.3.0/24 5.6.7.8/32 2001:db8::/32"},
		"no last ending":    {"1.2.3.0/24\n5.6.7.8", 2, "1.2.3.0/24 5.6.7.8/32"},
		"/8 at the end":     {"9.0.0.0/8", 1, "9.0.0.0/8"},
		"/16 at the end":    {"2001::/16", 1, "2001::/16"},
		"wide but ended":    {"128.0.0.0/1\n2000::/3\n", 2, "128.0.0.0/1 2000::/3"},
		"comments":          {"# a\n; b\n1.2.3.0/24 # c\n5.6.7.8;d\n9.9.9.9# e ; f\n", 3, "1.2.3.0/24 5.6.7.8/32 9.9.9.9/32"},
		"comment at end":    {"1.2.3.4\n# end", 1, "1.2.3.4/32"},
		"blank lines":       {"\n\n1.2.3.4\n \t \n\n", 1, "1.2.3.4/32"},
		"blanks around":     {"  1.2.3.4\t\n\t5.6.7.8  \n", 2, "1.2.3.4/32 5.6.7.8/32"},
		"CRLF":              {"# a\r\n1.2.3.4\r\n\r\n5.6.7.8 \r\n", 2, "1.2.3.4/32 5.6.7.8/32"},
		"byte order mark":   {"\xef\xbb\xbf1.2.3.4\n", 1, "1.2.3.4/32"},
		"mark and comment":  {"\xef\xbb\xbf# a\r\n1.2.3.4\r\n", 1, "1.2.3.4/32"},
		"same twice":        {"1.2.3.4\n1.2.3.4/32\n", 2, "1.2.3.4/32"},
		"covered":           {"10.1.0.0/16\n10.0.0.0/8\n", 2, "10.0.0.0/8"},
		"halves":            {"2001:db8:1::/48\n10.0.0.0/9\n10.128.0.0/9\n2001:db8::/48\n", 4, "10.0.0.0/8 2001:db8::/47"},
		"spellings":         {"2001:DB8:0:0:0:0:0:0/32\n64:ff9b::1.2.3.4\n::\n", 3, "::/128 64:ff9b::102:304/128 2001:db8::/32"},
		"longest line":      {"1.2.3.4 #" + strings.Repeat("a", MaxLine-9) + "\r\n", 1, "1.2.3.4/32"},
		"halves of IPv4-v6": {"255.255.255.255\n::\n::1\n", 3, "255.255.255.255/32 ::/127"},
	} {
		l := list(t, c.text)
		if got := words(l.Prefixes); got != c.want || l.Entries != c.entries {
			t.Errorf("%s: %d entries, %s; want %d, %s", name, l.Entries, got, c.entries, c.want)
		}
	}
}

func TestABrokenLineRefusesTheList(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"length":     {"1.2.3.4\n10.1.2.3/33\n5.6.7.8\n", `line 2: parse "10.1.2.3/33": not an address or prefix: write 192.0.2.7, `},
		"last line":  {"1.2.3.4\n# a\n\n1.2.3\n", `line 4: parse "1.2.3": not an address`},
		"no ending":  {"1.2.3.4\n5.6.7.", `line 2: parse "5.6.7.": not an address`},
		"host bits":  {"\xef\xbb\xbf104.17.1.1/13\r\n", `line 1: parse "104.17.1.1/13": bits are set beyond the first 13: did you mean 104.16.0.0/13?`},
		"mapped":     {"::ffff:1.2.3.4\n", `line 1: parse "::ffff:1.2.3.4": IPv4-mapped IPv6 addresses never appear on the wire: did you mean 1.2.3.4/32?`},
		"mapped hex": {"::ffff:102:304\n", `line 1: parse "::ffff:102:304": IPv4-mapped`},
		"zone":       {"fe80::1%eth0\n", `line 1: parse "fe80::1%eth0": an exclusion holds on every interface`},
		"two a line": {"1.2.3.4 5.6.7.8\n", `line 1: parse "1.2.3.4 5.6.7.8": not an address`},
		"range":      {"1.2.3.4-1.2.3.9\n", `line 1: parse "1.2.3.4-1.2.3.9": not an address`},
		"mark twice": {"1.2.3.4\n\xef\xbb\xbf1.2.3.4\n", `line 2: parse "\ufeff1.2.3.4": not an address`},
		"web page":   {"<html>\n", `line 1: parse "<html>": not an address`},
		"NUL":        {"1.2.3.4\x00\n", `line 1: parse "1.2.3.4\x00": not an address`},
		"CR alone":   {"1.2.3.4\r5.6.7.8\n", `line 1: parse "1.2.3.4\r5.6.7.8": not an address`},
		"long entry": {strings.Repeat("1", 1000) + "\n", `line 1: parse "` + strings.Repeat("1", 64) + `…": not an address`},
		"long right": {strings.Repeat("0", 60) + "1.2.3.4\n", `…": not an address`},
		"all IPv4":   {"0.0.0.0/0\n", "line 1: 0.0.0.0/0 would let everything past Tor: take the line out"},
		"all IPv6":   {"1.2.3.4\n::/0 # a\n", "line 2: ::/0 would let everything past Tor: take the line out"},
		"cut IPv4":   {"128.0.0.0/1", "line 1: 128.0.0.0/1 may have been cut short"},
		"cut IPv6":   {"2000::/12", "line 1: 2000::/12 may have been cut short"},
		"halves":     {"0.0.0.0/1\n128.0.0.0/1\n", "de.txt: its prefixes cover all of IPv4 together and would let everything past Tor"},
		"parts":      {"::/1\n1.2.3.4\n8000::/2\nc000::/2\n", "de.txt: its prefixes cover all of IPv6 together and would let"},
		"empty":      {"", "de.txt: holds no prefix at all: get the list anew"},
		"blank":      {"\n \r\n", "de.txt: holds no prefix at all"},
		"comments":   {"\xef\xbb\xbf# a\n; b", "de.txt: holds no prefix at all"},
		"long line":  {"1.2.3.4\n#" + strings.Repeat("a", MaxLine) + "\n", "line 2: is longer than 4096 bytes"},
		"endless":    {strings.Repeat(" ", 1<<20), "line 1: is longer than 4096 bytes"},
	} {
		path := write(t, c.text)
		l, err := Read(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %v; want the path and %q", name, err, c.want)
		}
		if l != nil || !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%s: returns %v; the error wraps config.ErrInvalid: %v", name, l, errors.Is(err, config.ErrInvalid))
		}
	}
}

func TestErrorsOfALineKeepTheirKind(t *testing.T) {
	_, err := Read(write(t, "1.2.3.4\n1.2.3.4/8\n"))
	var parse *config.ParseError
	if !errors.As(err, &parse) || parse.Suggestion != "1.0.0.0/8" || !errors.Is(err, config.ErrHostBits) {
		t.Errorf("got %v", err)
	}
}

func TestMaxEntriesIsTheLimit(t *testing.T) {
	most := strings.Repeat("1.2.3.4\n", MaxEntries) + "# end\n"
	if l := list(t, most); l.Entries != MaxEntries || len(l.Prefixes) != 1 || cap(l.Prefixes) > 2 {
		t.Errorf("%d entries, room for %d prefixes", l.Entries, cap(l.Prefixes))
	}
	err := new(List).fill(strings.NewReader(most+"5.6.7.8\n"), 0)
	if err == nil || !strings.Contains(err.Error(), "line 1000002: is one entry more than the 1000000") {
		t.Errorf("one entry more: %v", err)
	}
}

// comments never end. It counts the bytes that were read.
type comments int

func (c *comments) Read(b []byte) (int, error) {
	line := []byte("#" + strings.Repeat("a", 126) + "\n")
	n := copy(b, bytes.Repeat(line, len(b)/len(line)))
	*c += comments(n)
	return n, nil
}

func TestMaxBytesIsTheLimit(t *testing.T) {
	var endless comments
	err := new(List).fill(&endless, 0)
	if err == nil || !strings.Contains(err.Error(), "is larger than the 128 MiB") || !errors.Is(err, config.ErrInvalid) {
		t.Errorf("a file without end: %v", err)
	}
	if endless < MaxBytes || endless > MaxBytes+1<<20 {
		t.Errorf("read %d bytes of it", endless)
	}
	path := write(t, "1.2.3.4\n")
	if err := os.Truncate(path, MaxBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.HasPrefix(err.Error(), path+": is larger than the 128 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestUsualLinesDoNotAllocate(t *testing.T) {
	text := strings.Repeat("104.16.0.0/13\n192.0.2.7 # a\n2a00:1450:4000::/37\n2001:DB8::1\n1:2:3:4:5:6:7:8\n::1\n", 100)
	room := make([]netip.Prefix, 0, 1000)
	allocated := testing.AllocsPerRun(10, func() {
		if _, err := entries(strings.NewReader(text), room); err != nil {
			t.Fatal(err)
		}
	})
	if allocated > 5 {
		t.Errorf("%v allocations for 600 lines", allocated)
	}
}

// within ends the test if f is not done in time: it would hang, else.
func within(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatal("hangs")
	}
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	pipe, socket, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir: "is a directory", pipe: "is a pipe", socket: "is a socket", "/dev/null": "is a device", link: "is a device",
	} {
		within(t, 10*time.Second, func() {
			l, err := Read(path)
			if l != nil || err == nil || !strings.HasPrefix(err.Error(), path+": "+want+", not a regular file") || !errors.Is(err, config.ErrInvalid) {
				t.Errorf("%s: %v", path, err)
			}
		})
	}
}

func TestOpeningAPipeDoesNotHang(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe") // took the place of a file that was looked at
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, func() {
		f, err := openAtOnce(pipe)
		if err != nil {
			t.Error(err)
			return
		}
		f.Close()
	})
}

func TestAMissingListIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "de.txt")
	if l, err := Read(path); l != nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("returns %v, %v", l, err)
	}
}

func TestDigestIsOfTheAddresses(t *testing.T) {
	sum := sha256.Sum256([]byte("\x08\x0a\x00\x00\x00" + "\x20\xc0\x00\x02\x07" +
		"\x00" + "\x20\x20\x01\x0d\xb8" + strings.Repeat("\x00", 12)))
	want := hex.EncodeToString(sum[:])
	for _, text := range []string{
		"10.0.0.0/8\n192.0.2.7\n2001:db8::/32\n",
		"2001:db8::/33\n# a\n192.0.2.7/32\r\n10.128.0.0/9\n10.1.2.3\n10.0.0.0/9\n2001:db8:8000::/33\n",
	} {
		if got := list(t, text).Digest; got != want {
			t.Errorf("digest of %q is %s, want %s", text, got, want)
		}
	}
	seen := map[string]string{}
	for _, text := range []string{"10.0.0.0/8", "10.0.0.0/9", "11.0.0.0/8", "a00::/16", "10.0.0.0/8\na00::/16"} {
		d := list(t, text).Digest
		if other, ok := seen[d]; ok {
			t.Errorf("%q has the digest of %q", text, other)
		}
		seen[d] = text
	}
}

func TestDigestIsOfAllPrefixes(t *testing.T) {
	var text, packed strings.Builder
	for i := range 5000 { // more than one buffer; every second /24, so that none are joined
		fmt.Fprintf(&text, "%d.%d.%d.0/24\n", 1+i>>15, i>>7&0xff, i<<1&0xff)
		packed.Write([]byte{24, byte(1 + i>>15), byte(i >> 7), byte(i << 1), 0})
	}
	sum := sha256.Sum256([]byte(packed.String()))
	if got := list(t, text.String()).Digest; got != hex.EncodeToString(sum[:]) {
		t.Error("some are left out")
	}
}
