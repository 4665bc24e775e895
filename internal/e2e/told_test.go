package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestWhatIsTypedIsAnswered: what a command has done, what of it has no effect, and what it
// leaves as it was, is said; a refused list leaves nothing behind.
func TestWhatIsTypedIsAnswered(t *testing.T) {
	const one, other = "02:00:5e:10:00:01", "02:00:5e:10:00:02"
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	half := filepath.Join(t.TempDir(), "half.txt")
	if err := os.WriteFile(half, []byte("0.0.0.0/1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, step := range []said{
		{"device name " + one + " tv", 0, one + " is called tv"},
		{"device name " + other + " TV", 2, "TV is " + one + "; --force moves the name"},
		{"device name " + other + " TV --force", 0, other + " is called TV; " + one + ", which had that name, has none now"},
		{"device name " + one, 0, one + " has no name"},
		{"exclude add --device tv --policy block", 0, "added device " + other + " (block)"},
		{"exclude add --device nobody", 2, "no device has this name"},
		{"device allow 02-00-5E-10-00-01 --for 2d", 0, "added device " + one + " until "},
		{"device block " + one, 0, "changed device " + one + ": it is blocked for good, and was excluded until "},
		{"__complete detach e", 0, "eth1\n:4"},
		{"__complete device tor t", 0, "TV\n"},
		{"__complete exclude del --device 0", 0, one + "\n" + other + "\n:4"},
		{"__complete exclude add --policy d", 0, "direct\ntor\nblock\n:4"},
		{"__complete explain --lan e", 0, "eth1\n:4"},
		{"__complete attach --local c", 0, "connected\nreserved\nnone\n"},
		{"device tor " + one + " --json", 0, `"outcome": "removed"`},
		{"device block " + one + " --json", 0, `"outcome": "added"`},
		{"exclude add 127.0.0.1", 0, "never on the wire"},
		{"exclude add --port 53/udp", 0, "what devices look up"},
		{"exclude add 9.9.9.0/24 --resolver 192.0.2.53", 0, "none is excluded"},
		{"exclude add 9.9.9.0/24 --for 10m", 0, "for good, and stays so"},
		{"exclude add --list " + filepath.Dir(half) + "/nope.txt", 1, "nope.txt: no such file"},
		{"exclude add 128.0.0.0/1", 0, "added"},
		{"exclude add --list " + half, 2, "cover all of 0.0.0.0/0 together"},
	} {
		step.check(t, lab)
	}
	if copies, err := filepath.Glob(filepath.Join(stateDir(t, lab), "data", "lists", "*")); err != nil || len(copies) > 0 {
		t.Errorf("of a list that was refused there is %v, %v", copies, err)
	}
	for _, line := range [][]string{{"device", "block", other}, {"device", "tor", one}} {
		if r := mustTorbpf(t, lab, line...); r.stderr != "" {
			t.Errorf("what lets nothing out warns of what goes out: %v", r)
		}
	}
}
