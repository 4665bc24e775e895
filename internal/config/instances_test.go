package config

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

// TestInstancesFollowTheCPUs where they are to, and leave one for two.
func TestInstancesFollowTheCPUs(t *testing.T) {
	for cpus, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 31: 15, 64: 16} {
		if got := AutoInstances.On(cpus); got != want {
			t.Errorf("of %d CPUs: %d tors, want %d", cpus, got, want)
		}
		if got := Instances(3).On(cpus); got != 3 {
			t.Errorf("3 tors were asked for, and %d are there", got)
		}
	}
}

// TestInstancesAreReadAsTheyAreWritten: by files, by JSON and by commands.
func TestInstancesAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Instances{"1": 1, "16": 16, `"auto"`: AutoInstances} {
		cfg, err := Parse([]byte("interfaces = [\"eth1\"]\n[tor]\ninstances = " + text + "\n"))
		if err != nil || cfg.Tor.Instances != want {
			t.Errorf("%s is read as %v: %v", text, cfg.Tor.Instances, err)
		}
		file, err := cfg.Text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(file)
		if err != nil || again.Tor.Instances != want {
			t.Errorf("%s is written as\n%s and read as %v: %v", text, file, again.Tor.Instances, err)
		}
		state, err := json.Marshal(cfg)
		var back Config
		if err != nil || json.Unmarshal(state, &back) != nil || back.Tor.Instances != want {
			t.Errorf("%s comes back from JSON as %v: %v", text, back.Tor.Instances, err)
		}
		if read, err := ParseInstances(strings.Trim(text, `"`)); err != nil || read != want {
			t.Errorf("a command reads %s as %v: %v", text, read, err)
		}
	}
	for _, text := range []string{"0", "17", "-1", "2.5", `"many"`, "true", "[2]"} {
		_, err := Parse([]byte("interfaces = [\"eth1\"]\n[tor]\ninstances = " + text + "\n"))
		if err == nil || !strings.Contains(err.Error(), "line 3: tor.instances: ") || !strings.Contains(err.Error(), "write 1 to 16, or auto") {
			t.Errorf("%s: error %v", text, err)
		}
	}
	var old Config
	if err := json.Unmarshal([]byte(`{"tor":{"mode":"managed"}}`), &old); err != nil || old.Tor.Instances != 1 {
		t.Errorf("a state that knows of one tor has %v: %v", old.Tor.Instances, err)
	}
}

// TestAnotherFileKeepsOrChangesTheInstances, as any key.
func TestAnotherFileKeepsOrChangesTheInstances(t *testing.T) {
	one, other := file{Tor: fileTor{Instances: int64(4)}}, file{}
	if got := one.over(other).Tor.Instances; got != int64(4) {
		t.Errorf("a later file that says nothing makes it %v", got)
	}
	other.Tor.Instances = "auto"
	if got := one.over(other).Tor.Instances; got != "auto" {
		t.Errorf("of two files the earlier counts: %v", got)
	}
}

// TestPartsOfARangeAreDisjoint, and the same for any number of tors but one.
func TestPartsOfARangeAreDisjoint(t *testing.T) {
	for _, all := range []string{"10.192.0.0/10", "172.16.0.0/12", "fd74:6f72:f00::/40", "fd00::/100"} {
		p := netip.MustParsePrefix(all)
		if got := OnionPart(p, 0, 1); got != p {
			t.Errorf("one tor has %v of %v", got, p)
		}
		var parts []netip.Prefix
		for i := range MaxInstances {
			part := OnionPart(p, i, MaxInstances)
			if !PrefixCovers(p, part) || part != part.Masked() || part.Bits() != p.Bits()+4 {
				t.Errorf("part %d of %v is %v", i, p, part)
			}
			for _, other := range parts {
				if other.Overlaps(part) {
					t.Errorf("%v and %v of %v overlap", other, part, p)
				}
			}
			if i < 2 && OnionPart(p, i, 2) != part {
				t.Errorf("of two tors tor %d has %v, of sixteen %v", i, OnionPart(p, i, 2), part)
			}
			parts = append(parts, part)
		}
	}
}
