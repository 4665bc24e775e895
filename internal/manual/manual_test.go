package manual

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// TestTheConfigurationPageHasEveryKey of the reference, below its table, with what is said of it.
func TestTheConfigurationPageHasEveryKey(t *testing.T) {
	reference, err := os.ReadFile("../../packaging/torbpf.toml")
	if err != nil {
		t.Fatal(err)
	}
	page := File(Page{Version: "v1.2.3", Date: "2026-12-24"}, string(reference))
	lines := strings.Split(page, "\n")
	has := func(line string) bool {
		for _, l := range lines {
			if l == line {
				return true
			}
		}
		return false
	}
	keys := 0
	for _, l := range strings.Split(string(reference), "\n") {
		if m := regexp.MustCompile(`^(# )?([a-z0-9_]+ = .*)$`).FindStringSubmatch(l); m != nil && !strings.Contains(l, "policy") {
			if keys++; !has(".B "+quoted(m[2])) && !has(escape(m[2])) {
				t.Errorf("the page has no %s", m[2])
			}
		}
		if strings.HasPrefix(l, "[") && !has(".SS "+quoted(l)) {
			t.Errorf("the page has no table %s", l)
		}
	}
	if keys < 30 {
		t.Errorf("only %d keys were looked for", keys)
	}
	checkRoff(t, page)
}

// TestAReferenceBecomesAPage, shown as a terminal does.
func TestAReferenceBecomesAPage(t *testing.T) {
	page := File(Page{Version: "v1.2.3", Date: "2026-12-24"}, `# /etc/torbpf/torbpf.toml: what is kept.
#
# Of all of it.

# Where devices are; see `+"`torbpf attach`"+`.
interfaces = ["eth1"]

# About tables.
[tor]
# Two keys
# at once.
trans_port = 9040
# dns_port = 9053

# There may be many.
#
# [[rules]]
# policy = "direct"   # or "tor"
`)
	const want = `.TH TORBPF.TOML 5 "2026-12-24" "torbpf v1.2.3"
.SH NAME
torbpf.toml \- what is kept
.SH SYNOPSIS
\fB/etc/torbpf/torbpf.toml\fR, \fB/etc/torbpf/torbpf.d/*.toml\fR
.SH DESCRIPTION
Of all of it.
.PP
Files in torbpf.d are read after it, by name: their lists add up, of single values the last counts. \fBtorbpf check\-config\fR judges all of it, \fBtorbpf plan\fR shows what it would do here, \fBtorbpf apply\fR puts it in force.
.SH KEYS
.TP
.B "interfaces = [""eth1""]"
Where devices are; see \fBtorbpf attach\fR.
.SS "[tor]"
About tables.
.TP
.B "trans_port = 9040"
.TQ
.B "dns_port = 9053"
Two keys at once.
.SS "[[rules]]"
There may be many.
.PP
.RS 4
.EX
[[rules]]
policy = "direct"   # or "tor"
.EE
.RE
.SH SEE ALSO
\fBtorbpf\fR(8)
`
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("- as it should be, + as it is:\n%s", diff)
	}
}

// TestACommandBecomesAPage with its flags; what is hidden stays so.
func TestACommandBecomesAPage(t *testing.T) {
	root := &cobra.Command{Use: "torbpf", Short: "Put all on Tor", Long: "What it does.\n\n  torbpf attach eth1"}
	attach := &cobra.Command{Use: "attach INTERFACE...", Short: "Attach", Long: "attach puts it on\nTor.", Example: "  torbpf attach .eth1", Run: func(*cobra.Command, []string) {}}
	attach.Flags().Uint16("trans-port", 9040, "port of TransPort")
	attach.Flags().Bool("no-wait", false, "return at once")
	hidden := &cobra.Command{Use: "sentry", Hidden: true, Run: attach.Run}
	root.AddCommand(attach, hidden)
	page := Commands(Page{Version: "v1.2.3"}, root, []Status{{0, "Done."}})
	for _, want := range []string{
		".SH NAME\ntorbpf \\- put all on Tor\n", ".EX\ntorbpf attach eth1\n.EE\n",
		".SS \"torbpf attach INTERFACE...\"\nattach puts it on Tor.\n", ".EX\ntorbpf attach .eth1\n.EE\n",
		".TP\n.B \"\\-\\-no\\-wait\"\nreturn at once\n", ".B \"\\-\\-trans\\-port NUMBER (9040)\"\n", ".SH EXIT STATUS\n.TP\n.B \"0\"\nDone.\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "sentry") {
		t.Error("the page has a hidden command")
	}
	checkRoff(t, page)
}

// checkRoff has groff read a page, which warns of what it cannot make sense of.
func checkRoff(t *testing.T, page string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "groff", "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v: %s", err, out)
	}
}
