package nixos

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the files that options become to testdata, and the hash to package.nix")

// evaluated is what the module makes of some options.
type evaluated struct {
	Options    []string
	File       string
	Failed     []string
	Wanted     []string
	Units      []string // the packages that have them
	Forwarding map[string]bool
}

// nix runs a program of nix's without a store of its own.
func nix(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "NIX_STORE_DIR="+dir+"/store", "NIX_STATE_DIR="+dir+"/state", "NIX_LOG_DIR="+dir+"/log", "NIX_CONFIG=build-users-group =")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, stderr.String())
	}
	return out, nil
}

// evaluate sets options below networking.tor.
func evaluate(t *testing.T, options string) (evaluated, error) {
	t.Helper()
	var e evaluated
	out, err := nix(t, "nix-instantiate", "--readonly-mode", "--eval", "--strict", "--json", "--argstr", "set", options, "testdata/eval.nix")
	if err == nil {
		err = json.Unmarshal(out, &e)
	}
	return e, err
}

// set is what a user writes, of which an option is in the file by its name.
var set = map[string]string{
	"client.enable":              `{"client": {"enable": true}}`,
	"client.allowedDestinations": `{"client": {"enable": true, "allowedDestinations": ["104.16.0.0/13", "2606:4700::/32"]}}`,
	"client.allowedInterfaces":   `{"client": {"enable": true, "allowedInterfaces": ["wg0"]}}`,
	"client.allowedFwMarks":      `{"client": {"enable": true, "allowedFwMarks": ["0x100/0xff00", 512]}}`,
	"client.clearnet-proxy.enable": `{"client": {"enable": true, "clearnet-proxy": {"enable": true}},
		"settings": {"exclusions": {"resolver": "192.0.2.53"}}}`,
	"client.clearnet-proxy.port": `{"client": {"enable": true, "clearnet-proxy": {"enable": true, "port": 8118}}}`,
	"router.enable":              `{"router": {"enable": true, "interfaces": ["eth1"]}}`,
	"router.interfaces":          `{"router": {"enable": true, "interfaces": ["eth1", "wlan0"]}}`,
	"router.allowedDestinations": `{"router": {"enable": true, "interfaces": ["eth1"], "allowedDestinations": ["104.16.0.0/13"]}}`,
	"router.allowedSources":      `{"router": {"enable": true, "interfaces": ["eth1"], "allowedSources": ["192.168.1.7"]}}`,
	"VirtualAddrNetworkIPv4":     `{"client": {"enable": true}, "VirtualAddrNetworkIPv4": "10.64.0.0/10"}`,
	"tor":                        `{"client": {"enable": true}, "tor": {"outPath": "/nix/store/another-tor"}}`,
	"package":                    `{"client": {"enable": true}, "package": {"outPath": "/nix/store/another-torbpf"}}`,
	"settings": `{"router": {"enable": true, "interfaces": ["eth1"], "allowedDestinations": ["104.16.0.0/13"]}, "settings": {
		"local": "reserved", "clsact": true, "devices": {"kitchen-tv": "02:00:5e:10:00:01"},
		"exclusions": {"destinations": ["192.0.2.0/24"], "ports": ["22/tcp"]},
		"rules": [{"device": "kitchen-tv", "policy": "block", "comment": "a \"quoted\" \\ word"}, {"destination": "104.17.0.0/16", "policy": "tor"}],
		"web": {"listen": ["127.0.0.1:9959", "192.168.1.1:9959"], "page": false, "metrics": "everywhere"},
		"tor": {"torrc": "/etc/torbpf/bridges"}}}`,
}

// example is that of the module networking.tor, as docs/NETWORKING-TOR.md has it.
const example = `{"VirtualAddrNetworkIPv4": "10.64.0.0/10",
	"client": {"enable": true, "allowedDestinations": ["104.16.0.0/13"], "allowedInterfaces": ["wg0"], "allowedFwMarks": ["0x100"], "clearnet-proxy": {"enable": true, "port": 3128}},
	"router": {"enable": true, "interfaces": ["eth1"], "allowedDestinations": ["104.16.0.0/13"]}}`

// TestEachOptionBecomesAConfiguration that torbpf takes, and none is without a test.
func TestEachOptionBecomesAConfiguration(t *testing.T) {
	program := filepath.Join(t.TempDir(), "torbpf")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/torbpf").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	cases := maps.Clone(set)
	cases["example"] = example
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			e, err := evaluate(t, cases[name])
			if err != nil {
				t.Fatal(err)
			}
			if missing := slices.DeleteFunc(e.Options, func(o string) bool { return set[o] != "" }); len(missing) > 0 {
				t.Errorf("no test sets %v", missing)
			}
			if len(e.Failed) > 0 || !slices.Equal(e.Wanted, []string{"multi-user.target"}) {
				t.Errorf("it fails with %v, and is wanted by %v", e.Failed, e.Wanted)
			}
			unit := "/nix/store/of-torbpf"
			if name == "package" {
				unit = "/nix/store/another-torbpf"
			}
			if !slices.Equal(e.Units, []string{unit}) {
				t.Errorf("the unit is of %v, want %s", e.Units, unit)
			}
			path := filepath.Join("testdata", name+".toml")
			if *update {
				if err := os.WriteFile(path, []byte(e.File), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), e.File); diff != "" {
				t.Errorf("- as it should be, + as it is:\n%s", diff)
			}
			if out, err := exec.CommandContext(t.Context(), program, "check-config", "--config", path).CombinedOutput(); err != nil {
				t.Errorf("torbpf check-config: %v: %s", err, out)
			}
			if excludes := strings.Contains(name, "router.allowed") || name == "settings" || name == "example"; excludes != e.Forwarding["net.ipv4.conf.all.forwarding"] {
				t.Errorf("forwarding: %v", e.Forwarding)
			}
		})
	}
}

// TestWhatCannotBeIsSaid, when the configuration is built.
func TestWhatCannotBeIsSaid(t *testing.T) {
	for options, want := range map[string]string{
		`{"router": {"enable": true}}`: "router.interfaces is empty",
		`{"router": {"enable": true, "interfaces": ["eth1"]}, "client": {"clearnet-proxy": {"enable": true}}}`: "leave the proxy out",
		`{"client": {"enable": true}, "nat-priority": -100}`:                                                   "priorities of their own",
		`{"client": {"enable": true, "allowedDests": []}}`:                                                     "does not exist",
		`{"client": {"enable": true, "allowedFwMarks": [-1]}}`:                                                 "is not of type",
	} {
		e, err := evaluate(t, options)
		if said := fmt.Sprint(err, e.Failed); !strings.Contains(said, want) {
			t.Errorf("%s: %s", options, said)
		}
	}
	if e, err := evaluate(t, `{}`); err != nil || e.File != "" || len(e.Wanted) > 0 {
		t.Errorf("with nothing enabled there is %+v (%v)", e, err)
	}
}

// hashLine has the hash of what is vendored.
var hashLine = regexp.MustCompile(`vendorHash = "([^"]*)"`)

// TestTheHashIsOfTheModules that go.mod names now.
func TestTheHashIsOfTheModules(t *testing.T) {
	vendor := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor", "-o", vendor)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v: %s", err, out)
	}
	out, err := nix(t, "nix-hash", "--type", "sha256", vendor)
	sum, errHex := hex.DecodeString(strings.TrimSpace(string(out)))
	text, errRead := os.ReadFile("package.nix")
	if err := errors.Join(err, errHex, errRead); err != nil {
		t.Fatal(err)
	}
	want := "sha256-" + base64.StdEncoding.EncodeToString(sum)
	if *update {
		text = hashLine.ReplaceAll(text, []byte(`vendorHash = "`+want+`"`))
		if err := os.WriteFile("package.nix", text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if m := hashLine.FindSubmatch(text); m == nil || string(m[1]) != want {
		t.Errorf("package.nix has not %s: run this test with -update", want)
	}
}
