package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// documentedFields is what the docs say of an object.
type documentedFields struct {
	schema string
	fields []string
}

// documentedJSON reads the table of the docs, by command.
func documentedJSON(t *testing.T) map[string]documentedFields {
	t.Helper()
	text, err := os.ReadFile("../../docs/JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z -]+)` \\| ([0-9]+) \\|(.*)\\|$")
	field := regexp.MustCompile("`([a-z0-9_]+)`")
	out := make(map[string]documentedFields)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		d := documentedFields{schema: m[2], fields: []string{"schema"}}
		for _, f := range field.FindAllStringSubmatch(m[3], -1) {
			d.fields = append(d.fields, f[1])
		}
		out[m[1]] = d
	}
	return out
}

// TestJSONHasTheFieldsOfTheDocs: those and no others, for every command that has any, and
// nothing else on stdout.
func TestJSONHasTheFieldsOfTheDocs(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	fakeSystemctl(t, lab)
	mac := lab.Client1.MAC.String()
	file := writeConfig(t, lab, `interfaces = ["eth1"]`, "[web]", fmt.Sprintf("password_file = %q", filepath.Join(lab.Dir(), "password")))
	missing := documentedJSON(t)
	for _, args := range [][]string{
		{"version"}, {"attach", lan, "--no-wait", "--torrc", loneTorrc(t, lab)}, {"events", "--once"}, {"top", "--once"}, {"exclude", "add", other4, "--for", "1h"}, {"exclude", "list"},
		{"device", "name", mac, "tv"}, {"device", "list"}, {"device", "allow", "tv"}, {"device", "block", "tv"}, {"device", "tor", "tv"},
		{"status"}, {"tor", "status"}, {"tor", "circuits"}, {"tor", "bridges"}, {"tor", "newnym", "tv"}, {"check", "--layers"}, {"explain", "--from", lab.Client1.IPv4.String(), "--to", testnet.Other4.String()},
		{"check-config", "--config", file}, {"plan", "--config", file}, {"apply", "--no-wait", "--config", file},
		{"enable", "--config", filepath.Join(lab.Dir(), "new.toml")}, {"disable"}, {"exclude", "del", other4},
		{"page", "password", "--remove", "--config", file}, {"page", "login"}, {"page", "logout"}, {"detach", lan}, {"detach", "--all"},
	} {
		if args[0] == "detach" && args[1] == "--all" {
			attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
		}
		if args[0] == "page" && args[1] == "login" {
			startRun(t, lab, file).await(t, "metrics are served")
		}
		command := strings.Join(args[:1], " ")
		if args[0] == "exclude" || args[0] == "device" || args[0] == "tor" || args[0] == "page" {
			command = strings.Join(args[:2], " ")
		}
		checkFields(t, command, documentedJSON(t)[command], mustTorbpf(t, lab, append(args, "--json")...).stdout)
		delete(missing, command)
	}
	checkFields(t, "doctor", missing["doctor"], runTorbpf(t, lab, "doctor", lan, "--json").stdout) // of a lab with faults of its own
	delete(missing, "doctor")
	if left := slices.Collect(maps.Keys(missing)); len(left) > 0 {
		t.Errorf("nobody has run %v", left)
	}
}

func checkFields(t *testing.T, command string, want documentedFields, out string) {
	t.Helper()
	var got map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
		return
	}
	if string(got["schema"]) != want.schema {
		t.Errorf("%s: schema %s, the docs say %q", command, got["schema"], want.schema)
	}
	slices.Sort(want.fields)
	if fields := slices.Sorted(maps.Keys(got)); !slices.Equal(fields, want.fields) {
		t.Errorf("%s: it has %v, the docs have %v", command, fields, want.fields)
	}
}
