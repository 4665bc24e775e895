package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestApplyWaitsLikeRun: an interface of the file that is not there is blocked until it is;
// one that takes the place of another may be mistyped.
func TestApplyWaitsLikeRun(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	path := filepath.Join(t.TempDir(), "torbpf.toml")
	write := func(interfaces string) {
		t.Helper()
		text := "interfaces = [" + interfaces + "]\n[tor]\ntorrc = \"" + loneTorrc(t, lab) + "\"\n"
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(`"eth1"`)
	detachLater(t, lab)
	apply := "apply --no-wait --config " + path
	said{apply, 0, "in force"}.check(t, lab)
	said{"exclude add 9.9.9.9", 0, "added"}.check(t, lab)
	write(`"eth1", "eth7"`)
	plan := "plan --config " + path
	said{plan, 0, "# changes\n+ interface eth7\nkept, since a command has added it: destination 9.9.9.9/32"}.check(t, lab)
	said{plan + " --reset", 0, "- rule destination 9.9.9.9/32\n+ interface eth7\n"}.check(t, lab)
	said{plan, 0, "direct to 9.9.9.9/32"}.check(t, lab)
	said{plan, 0, "note: there is no interface eth7 here"}.check(t, lab)
	said{apply, 0, "there is no interface eth7 here"}.check(t, lab)
	said{"status", 0, "blocked until it can be attached"}.check(t, lab)
	said{"attach eth8 --no-wait", 2, "there is no interface eth8 here"}.check(t, lab)
	write(`"ethernet7"`)
	said{plan, 2, "there is no interface ethernet7 here"}.check(t, lab)
	said{apply, 2, "there is no interface ethernet7 here"}.check(t, lab)
}
