package packaging

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the packages hold to testdata")

// between is a version between two releases, of a candidate, which each distribution sorts by
// rules of its own.
const between = "v1.2.3-rc1-5-gabcdef0"

// build makes all packages for this machine, and returns them by their names.
func build(t *testing.T, version string) map[string][]byte {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "./packages.sh", version)
	cmd.Env = append(os.Environ(), "ARCHS="+runtime.GOARCH, "DIST="+dist, "SOURCE_DATE_EPOCH=1800000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packages.sh: %v: %s", err, out)
	}
	found := make(map[string][]byte)
	paths, err := filepath.Glob(filepath.Join(dist, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(path, dist+"/")] = text
	}
	return found
}

// shown runs a program over a package, as listings says for its kind.
func shown(t *testing.T, pkg []byte, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package")
	if err := os.WriteFile(path, pkg, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script, "shown", path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return string(out)
}

// listings show what is in a package: mode, owner and path of its files, what it says of
// itself, and when its scripts run. Sizes and times are left out.
var listings = map[string]string{
	"deb": `dpkg-deb --fsys-tarfile "$1" | tar --list --verbose --numeric-owner | awk '{ print $1, $2, $6 }'
dpkg-deb --field "$1" | grep -v ^Installed-Size
dpkg-deb --ctrl-tarfile "$1" | tar --list`,
	"rpm": `rpm -qp --qf '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' "$1"
rpm -qp --qf '%{NAME} %{VERSION}-%{RELEASE} %{ARCH} %{LICENSE} %{SUMMARY}\n[needs %{REQUIRENAME}\n]' "$1"
rpm -qp --scripts "$1" | grep scriptlet`,
	"alpine": `tar --list --gzip --ignore-zeros --verbose --file "$1" | awk '{ print $1, $2, $6 }'
tar --extract --to-stdout --gzip --ignore-zeros --file "$1" .PKGINFO | grep -v -e ^size -e ^datahash`,
	"openwrt-ipk": `for part in control data; do
	tar --extract --to-stdout --gzip --file "$1" ./$part.tar.gz | tar --list --gzip --verbose | awk '{ print $1, $2, $6 }'
done
tar --extract --to-stdout --gzip --file "$1" ./control.tar.gz | tar --extract --to-stdout --gzip ./control | grep -v ^Installed-Size`,
}

func init() { listings["openwrt-apk"] = listings["alpine"] }

// TestPackagesHoldWhatTheirDistributionsExpect: one command builds them all, twice the same,
// under the names and versions of each distribution, with its files in its places.
func TestPackagesHoldWhatTheirDistributionsExpect(t *testing.T) {
	first := build(t, between)
	if n := len(first); n < len(listings) {
		t.Fatalf("only %d packages: %v", n, slices.Sorted(maps.Keys(first)))
	}
	for _, name := range slices.Sorted(maps.Keys(first)) {
		kind := filepath.Dir(name)
		text := name + "\n" + shown(t, first[name], listings[kind])
		text = strings.ReplaceAll(text, "x86_64", "ARCH")
		text = strings.ReplaceAll(text, "amd64", "ARCH")
		golden := filepath.Join("testdata", kind+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOARCH == "amd64" { // elsewhere OpenWrt has several
			if diff := cmp.Diff(string(want), text); diff != "" {
				t.Errorf("%s, - as it should be, + as it is:\n%s", name, diff)
			}
		}
		if strings.HasPrefix(name, "deb/") {
			checkLintian(t, name, first[name])
		}
	}
	for name, pkg := range build(t, between) {
		if sha256.Sum256(pkg) != sha256.Sum256(first[name]) {
			t.Errorf("%s, built again, is another one", name)
		}
	}
}

// checkLintian has Debian's checker look at a deb; warnings count as well.
func checkLintian(t *testing.T, name string, deb []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(path, deb, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "lintian", "--allow-root", "--fail-on", "error,warning", path).CombinedOutput()
	if err != nil {
		t.Errorf("lintian: %v: %s", err, out)
	}
}

// TestWhatIsNoVersionIsRefused, before anything is built.
func TestWhatIsNoVersionIsRefused(t *testing.T) {
	for _, version := range []string{"unknown", "1.2.x", "v1-2"} {
		dist := filepath.Join(t.TempDir(), "dist")
		cmd := exec.CommandContext(t.Context(), "./packages.sh", version)
		cmd.Env = append(os.Environ(), "DIST="+dist)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), fmt.Sprintf("%s is no version: say VERSION=", version)) {
			t.Errorf("%s: %v: %s", version, err, out)
		}
		if _, err := os.Stat(dist); err == nil {
			t.Errorf("%s: something was built", version)
		}
	}
}
