package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// docCommand is a line of the documentation that somebody may type.
type docCommand struct {
	where  string   // file and line
	text   string   // without sudo
	table  bool     // it is in a table, each row of which is for itself
	output []string // what is shown of its output
}

// elsewhere are commands that cannot be run in a lab, by how they begin, and what runs them.
var elsewhere = map[string]string{
	"make":          "TestMakeTargets",
	"go run":        "TestAMachineDoesItsJobs",
	"apt install":   "TestThePackageThroughItsLife",
	"apk add":       "TestTheServiceUnderOpenRC",
	"opkg install":  "TestPackagesHoldWhatTheirDistributionsExpect",
	"man torbpf":    "TestACommandBecomesAPage",
	"nixos-rebuild": "TestEachOptionBecomesAConfiguration",
}

// endless commands are ended after a while.
var endless = regexp.MustCompile(`follow=1|--watch|^torbpf (events|top|run)\b`)

// TestCommandsOfTheDocs runs the commands of each page one after the other, on a router that has what they
// name. Of what a page shows as output each line is there, numbers aside.
func TestCommandsOfTheDocs(t *testing.T) {
	lab := torLab(t)
	tests := testNames(t)
	for _, page := range docPages(t) {
		here := map[bool][]docCommand{}
		for _, c := range commandsOf(t, page) {
			if test, found := runElsewhere(c.text); !found {
				here[c.table] = append(here[c.table], c)
			} else if !tests[test] {
				t.Errorf("%s: %s is for %s to run, which there is none of", c.where, c.text, test)
			}
		}
		for table, commands := range here {
			name := filepath.Base(page)
			if table {
				name = "table of " + name
			}
			t.Run(name, func(t *testing.T) { runDocCommands(t, lab, commands) })
		}
	}
}

func runElsewhere(command string) (test string, found bool) {
	for beginning, test := range elsewhere {
		if command == beginning || strings.HasPrefix(command, beginning+" ") {
			return test, true
		}
	}
	return "", false
}

// docPages are the pages of the documentation.
func docPages(t *testing.T) []string {
	t.Helper()
	const root = "../.."
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no documentation: %v", err)
	}
	return append([]string{filepath.Join(root, "README.md")}, pages...)
}

// commandsOf returns the commands of the blocks of a page that are a shell's, and of the tables of commands.
func commandsOf(t *testing.T, page string) []docCommand {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	inTable := regexp.MustCompile("^\\| `(torbpf [^`…A-Z]*)`")
	var out []docCommand
	block := ""
	for i, line := range strings.Split(string(text), "\n") {
		add := func(command string) {
			command = strings.TrimSpace(strings.Split(command, "  #")[0])
			command = strings.ReplaceAll(strings.TrimPrefix(command, "sudo "), "./torbpf", "torbpf")
			out = append(out, docCommand{where: fmt.Sprintf("%s:%d", filepath.Base(page), i+1), text: command, table: block == ""})
		}
		prompted, isPrompted := strings.CutPrefix(line, "# ")
		switch row := inTable.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "```"):
			block = strings.TrimPrefix(line, "```")
		case block == "sh" && line != "" && !isPrompted:
			add(line)
		case block == "console" && isPrompted:
			add(prompted)
		case block == "console":
			out[len(out)-1].output = append(out[len(out)-1].output, line)
		case block == "" && row != nil:
			add(row[1])
		}
	}
	return out
}

// testNames are the tests that there are.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "grep", "-rhoP", "--include=*_test.go", `^func \KTest\w+`, "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for name := range strings.FieldsSeq(string(out)) {
		names[name] = true
	}
	return names
}

// docRouter makes a router of a shell in its network namespace: its first process, users, files and
// interfaces that the pages name. Its arguments are a folder, and the program.
const docRouter = `set -e
mount -t tmpfs tmpfs "$1"
mount -t tmpfs tmpfs /run
for dir in etc usr var; do
	mkdir -p "$1/$dir/up" "$1/$dir/work"
	mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$1/$dir/up,workdir=$1/$dir/work" "/$dir"
done
printf '%s:x:%d:%d::/nonexistent:/bin/sh\n' alice 4001 4001 _chrony 4002 4002 proxy 4003 4003 >>/etc/passwd
mkdir -p /etc/torbpf/lists /etc/torbpf/torbpf.d "$1/bin" "$1/srv"
mount --bind "$1/srv" /srv
echo 192.0.2.0/24 | tee /etc/torbpf/lists/de.txt >/srv/cdn.txt
cp "$2" /usr/sbin/torbpf-itself
stub() { printf '#!/bin/sh\n%s\n' "$2" >"$1"; chmod 755 "$1"; }
cp /bin/true /usr/bin/signal-desktop
stub "$1/bin/firefox" true
stub "$1/bin/curl" 'case "$*" in *--unix-socket*) exec /usr/bin/curl --silent --show-error --fail "$@";; esac'
stub "$1/bin/torbpf" 'case "$1" in attach) exec torbpf-itself "$@" --torrc '"$3"';; esac; exec torbpf-itself "$@"'
stub "$1/bin/systemctl" 'case "$1" in enable) torbpf-itself run >/dev/null 2>&1 & ;; disable) pkill -f "torbpf-itself run"; esac; true'
PATH=$1/bin:$PATH
ip link add wg0 type veth peer name wg0-peer
ip link set wg0 up
ip link set wg0-peer up
ip addr add 10.99.0.2/24 dev wg0
echo 4710 >/proc/sys/kernel/ns_last_pid
sleep 1000 &
end() {
	torbpf-itself detach --all || test $? = 3
	nft delete table inet squid || true
	ip link del wg0
}
trap 'end >/dev/null 2>&1' EXIT
torbpf attach eth1 --client >/dev/null
torbpf device name ` + testnet.MACClient1 + ` kitchen-tv >/dev/null
torbpf enable >/dev/null
until test -S /run/torbpf/host.sock; do sleep 0.05; done
cd "$1/srv"
echo ready
while read -r number patience; do
	read -r line
	code=0
	timeout "$patience" bash -c "$line" >"$1/out" 2>&1 <<<"four words are enough" || code=$?
	echo "done $number $code $(wc -l <"$1/out")"
	cat "$1/out"
done
`

// runDocCommands runs commands in such a router, and judges them.
func runDocCommands(t *testing.T, lab *testnet.Lab, commands []docCommand) {
	forgetConnections(t, lab)
	defer goOnTrying(lab)()
	cmd := lab.Router.Command(t.Context(), "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "-c", docRouter, "router", t.TempDir(), program, lab.ClientTorrcFile())
	cmd.Stdin = strings.NewReader(docScript(commands))
	r := runCommand(t, cmd)
	lines := strings.SplitAfter(r.stdout, "\n")
	if r.code != 0 || lines[0] != "ready\n" {
		t.Fatalf("the router does not come up: %v", r)
	}
	lines = lines[1:]
	for i, c := range commands {
		var number, code, length int
		if _, err := fmt.Sscanf(lines[0], "done %d %d %d", &number, &code, &length); err != nil || number != i {
			t.Fatalf("after %s: %v: %q", c.where, err, lines[0])
		}
		output := lines[1 : 1+length]
		lines = lines[1+length:]
		const timedOut = 124
		answered := code == 0 || code == timedOut && endless.MatchString(c.text) || code == 1 && strings.HasPrefix(c.text, "torbpf doctor") // here is something to find
		if !answered {
			t.Errorf("%s: %s: exit code %d\n%s", c.where, c.text, code, strings.Join(output, ""))
		}
		c.checkOutput(t, output)
	}
}

// goOnTrying has a device try what Tor cannot carry until the function is called that it returns.
func goOnTrying(lab *testnet.Lab) (stop func()) {
	const between = 100 * time.Millisecond
	ticker, done := time.NewTicker(between), make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			_ = testnet.Echo(lab.Client1, "udp", at(testnet.Web4, testnet.PortHTTPS), hush) // it is refused
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	})
	return func() { ticker.Stop(); close(done); ended.Wait() }
}

// docScript is what the router reads: two lines of each command.
func docScript(commands []docCommand) string {
	var b strings.Builder
	for i, c := range commands {
		limit := time.Minute
		if endless.MatchString(c.text) {
			limit = 2 * time.Second
		}
		fmt.Fprintf(&b, "%d %s\n%s\n", i, strconv.Itoa(int(limit.Seconds())), c.text)
	}
	return b.String()
}

var numbers = regexp.MustCompile(`\b(0x)?[0-9a-f]*[0-9][0-9a-f]*\b|[0-9]+`)

// checkOutput looks for the lines that the page shows; of numbers others may be there.
func (c docCommand) checkOutput(t *testing.T, output []string) {
	t.Helper()
	shape := func(line string) string {
		return strings.Join(strings.Fields(numbers.ReplaceAllString(line, "#")), " ")
	}
	var got []string
	for _, line := range output {
		got = append(got, shape(line))
	}
	for _, line := range c.output {
		if line != "…" && !slices.Contains(got, shape(line)) {
			t.Errorf("%s: %s shows no line such as %q:\n%s", c.where, c.text, line, strings.Join(output, ""))
		}
	}
}

// TestMakeTargets: what the pages have make do is there, with the variables that they set.
func TestMakeTargets(t *testing.T) {
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := os.ReadFile("../../packaging/packages.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range docPages(t) {
		for _, c := range commandsOf(t, page) {
			words, isMake := strings.CutPrefix(c.text, "make ")
			if !isMake {
				continue
			}
			target, settings, _ := strings.Cut(words, " ")
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(text) {
				t.Errorf("%s: make has no target %s", c.where, target)
			}
			for _, v := range regexp.MustCompile(`(?:^| )([A-Z]+)=`).FindAllStringSubmatch(settings, -1) {
				if !strings.Contains(string(text), "$("+v[1]+")") && !strings.Contains(string(packages), "$"+v[1]) && !strings.Contains(string(packages), "${"+v[1]) {
					t.Errorf("%s: make knows nothing of %s", c.where, v[1])
				}
			}
			if out, err := exec.CommandContext(t.Context(), "bash", "-c", "make -C ../.. --dry-run "+words).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v: %s", c.where, c.text, err, out)
			}
		}
	}
}
