package vm

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list reads an archive as the kernel does: a line of mode, name and content for each entry.
func list(t *testing.T, archive []byte) (entries []string) {
	t.Helper()
	field := func(header []byte, n int) int {
		v, err := strconv.ParseUint(string(header[6+8*n:14+8*n]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(v)
	}
	for at := 0; ; {
		header := archive[at:]
		if string(header[:6]) != "070701" {
			t.Fatalf("at %d there is no header: %q", at, header[:6])
		}
		mode, size, nameSize := field(header, 1), field(header, 6), field(header, 11)
		name := string(header[110 : 110+nameSize-1])
		if name == "TRAILER!!!" {
			return entries
		}
		data := (at + 110 + nameSize + 3) &^ 3
		entries = append(entries, strings.TrimSpace(fmt.Sprintf("%o %s %s", mode, name, archive[data:data+size])))
		at = (data + size + 3) &^ 3
	}
}

func TestArchiveIsWhatTheKernelUnpacks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"sub/one": "1", "two": "22"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	a := newArchive(&b)
	a.bytes("/etc/motd", []byte("hello"))
	a.bytes("etc/motd", []byte("the first one counts"))
	a.link("sbin/modprobe", "/init")
	a.tree("/data", dir)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"40755 etc", "100644 etc/motd hello", "40755 usr", "40755 usr/sbin", "120777 usr/sbin/modprobe /init",
		"40755 data", "40755 data/sub", "100600 data/sub/one 1", "100600 data/two 22",
	}
	if diff := cmp.Diff(want, list(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
	if b.Len()%512 != 0 {
		t.Errorf("the archive has %d bytes: another one could not follow", b.Len())
	}
}

func TestAFileThatIsMissingIsAnError(t *testing.T) {
	a := newArchive(io.Discard)
	a.file("/x", "/no/such/file")
	a.bytes("/y", nil)
	if err := a.close(); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("got %v", err)
	}
}

func TestModulesAreDescribed(t *testing.T) {
	var m module
	info := []string{"license=GPL", "depends=nf_tables,libcrc32c", "alias=nft-chain-1-nat", "alias=pci:v00001AF4d*", "softdep=pre: nf-conntrack post: other", "name=x"}
	m.describe([]byte(strings.Join(info, "\x00")))
	m.name, m.path = "nft_chain_nat", "/lib/modules/6.1/kernel/x.ko"
	want := "builtin ext4\nmodule nft_chain_nat /lib/modules/6.1/kernel/x.ko nf_tables,libcrc32c,nf_conntrack\nalias nft_chain_1_nat nft_chain_nat\n"
	if got := string(index([]module{m}, []string{"ext4"})); got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestGuestsHaveNetworkingAndNoDrivers(t *testing.T) {
	for name, want := range map[string]bool{
		"net/sched/sch_netem.ko": true, "drivers/net/veth.ko": true, "drivers/net/wireguard/wireguard.ko.xz": true,
		"drivers/net/ethernet/intel/igb/igb.ko": false, "fs/ext4/ext4.ko": false, "drivers/block/loop.ko": true, "network/x.ko": false,
	} {
		if got := inside(name, wanted) && !inside(name, unwanted); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTheNewestKernelIsFound(t *testing.T) {
	inOrder := []string{"linux-image-5.10.0-46-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-51-cloud-amd64", "linux-image-6.12.9+deb13-cloud-amd64", "linux-image-6.12.118+deb13-cloud-amd64", "linux-image-7.3.4+deb13-cloud-amd64"}
	for i := range inOrder {
		for j := range inOrder {
			if got := newer(numbers(inOrder[i]), numbers(inOrder[j])); got != (i > j) {
				t.Errorf("%s newer than %s: %v", inOrder[i], inOrder[j], got)
			}
		}
	}
}

func TestKernelsWithDriversAreToldFromThoseForClouds(t *testing.T) {
	for name, want := range map[string][2]bool{ // for clouds, with drivers
		"linux-image-6.1.0-56-cloud-amd64":          {true, false},
		"linux-image-6.1.0-56-amd64":                {false, true},
		"linux-image-6.12.118+deb13-amd64":          {false, true},
		"linux-image-6.12.118+deb13-rt-amd64":       {false, false},
		"linux-image-6.12.118+deb13-cloud-arm64":    {false, false},
		"linux-image-6.1.0-56-amd64-dbg":            {false, false},
		"linux-image-6.12.118+deb13-amd64-unsigned": {false, false},
		"linux-image-amd64":                         {false, false},
	} {
		if got := [2]bool{isImage(name, "amd64", false), isImage(name, "amd64", true)}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestAKernelThatIsNoneIsRefused(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Kernel(t.Context(), "latest", "amd64")
	if err == nil || !strings.Contains(err.Error(), `"newest"`) {
		t.Errorf("got %v", err)
	}
}

func TestParseFile(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"/etc/motd": "/etc/motd /etc/motd", "motd": here + "/motd " + here + "/motd", "/a:/b": "/a /b", "/a:b": ""} {
		host, guest, err := ParseFile(text)
		if (err != nil) != (want == "") || err == nil && host+" "+guest != want {
			t.Errorf("%s: %s %s %v", text, host, guest, err)
		}
	}
}

func TestWhatAGuestLeavesStaysInItsFolder(t *testing.T) {
	for name, fine := range map[string]bool{"a/b": true, "../b": false, "/b": false} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = Unpack(tar.NewReader(&b), root)
		if (err == nil) != fine {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, name)); fine && (err != nil || string(text) != "x") {
			t.Errorf("%s has %q: %v", name, text, err)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
}
